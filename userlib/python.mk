# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
#
# The package of Python: part of the Makefile.
#
#   make python			the package, in B/python
#   make install-python DESTDIR= PREFIX=
#
# Variables: PYTHON, the interpreter whose headers are used; PYTHONDIR, where the package goes. The
# extension module is for the stable ABI, so one build works with each Python from 3.11 on.

PYTHON ?= /usr/bin/python3
PYTHON_INCLUDE := $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))' 2> /dev/null)
# The headers of another machine, for which this compiler doesn't compile, don't count.
WITH_PYTHON := $(shell printf '\043include <Python.h>\n' | \
	$(CC) -I$(PYTHON_INCLUDE) -E -x c - > /dev/null 2>&1 && echo 1)
# The first folder below PREFIX where this Python looks for packages.
PYTHONDIR ?= $(shell $(PYTHON) -c 'import site; print(next((place for place in site.getsitepackages() \
	if place.startswith("$(PREFIX)/lib/")), "$(PREFIX)/lib/python3/dist-packages"))')

BINDING := $(TOP)../python
PACKAGE := $(B)/python/evplmem
PACKAGE_TEXTS := $(addprefix $(PACKAGE)/,__init__.py aio.py __init__.pyi py.typed)
OBJ_python := $(patsubst $(BINDING)/src/%.c,$(B)/python/%.o,$(wildcard $(BINDING)/src/*.c))

python: $(PACKAGE)/_evplmem.abi3.so $(PACKAGE_TEXTS)

$(B)/python/%.o: $(BINDING)/src/%.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(ALL_CFLAGS) -isystem $(PYTHON_INCLUDE) -MMD -MP -c -o $@ $<

# Python itself has the functions of Python.
$(PACKAGE)/_evplmem.abi3.so: $(OBJ_python) $(B)/libevplmem.so
	@mkdir -p $(@D)
	$(call Q,LD)$(CC) $(ALL_CFLAGS) -shared -Wl,-z,now -o $@ $(OBJ_python) -L$(B) -levplmem \
		$(ALL_LDFLAGS)

$(PACKAGE_TEXTS): $(PACKAGE)/%: $(BINDING)/evplmem/%
	@mkdir -p $(@D)
	$(call Q,COPY)cp $< $@

install-python: python
	$(INSTALL) -d $(DESTDIR)$(PYTHONDIR)/evplmem
	$(INSTALL) -m 644 $(PACKAGE)/_evplmem.abi3.so $(PACKAGE_TEXTS) $(DESTDIR)$(PYTHONDIR)/evplmem

# The tests are scripts, as the environment that they need depends on the build. Python itself isn't
# built with the sanitizer, so the sanitizer's library is preloaded.
PYTHON_SKIP := $(if $(WITH_PYTHON),$(if $(findstring thread,$(SANITIZE)),it isn\047t built for ThreadSanitizer),\
	there is no Python.h for this compiler)
PYTHON_ENV := LD_LIBRARY_PATH=$(abspath $(B)) PYTHONPATH=$(abspath $(B)/python)
PYTHON_ASAN := $(if $(findstring address,$(SANITIZE)),$(shell $(CC) -print-file-name=libasan.so))
PYTHON_LOOPBACK := EVPL_BACKEND=anon EVPL_TEST_LOOPBACK=1 PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$(PYTHON_ASAN) $(abspath $(B)/tests/loopback.so)"
PYTHON_TESTS := $(B)/tests/python-loopback.sh $(B)/tests/python-fuzz.sh

# $(1): the test; $(2): more of its environment
python_test = @printf '\043!/bin/sh\n%b\n' '$(if $(PYTHON_SKIP),echo "ok 1 python \043 SKIP $(PYTHON_SKIP)"; echo 1..1,\
	exec env $(PYTHON_ENV) $(2) $(PYTHON) $(abspath $(TOP)tests/$(1)))' > $@ && chmod +x $@

$(B)/tests/python.sh: $(TOP)tests/python.py FORCE | $(B)/tests
	$(call python_test,python.py)

$(B)/tests/python-loopback.sh: $(TOP)tests/python.py FORCE | $(B)/tests
	$(call python_test,python.py,$(PYTHON_LOOPBACK))

$(B)/tests/python-fuzz.sh: $(TOP)tests/python_fuzz.py FORCE | $(B)/tests
	$(call python_test,python_fuzz.py,$(PYTHON_LOOPBACK))

ifeq ($(PYTHON_SKIP),)
$(PYTHON_TESTS) $(B)/tests/python.sh: python
$(PYTHON_TESTS): $(B)/tests/loopback.so
endif

$(B)/tests/loopback.so: $(TOP)tests/loopback.c $(B)/libevplmem.so | $(B)/tests
	$(call Q,LD)$(CC) $(ALL_CFLAGS) -Wno-missing-prototypes -shared -o $@ $< -L$(B) -levplmem $(ALL_LDFLAGS)

install-check-python: install-check-devices $(if $(WITH_PYTHON),python)
	$(if $(WITH_PYTHON),B='$(abspath $(B))' $(TOP)tests/install/check-python $(abspath $(B))/install $(PYTHON),\
		@printf 'ok 1 install-python \043 SKIP%s\n1..1\n' '$(PYTHON_SKIP)')

.PHONY: python install-python install-check-python
-include $(wildcard $(B)/python/*.d)
