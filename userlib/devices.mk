# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
#
# The libraries for devices, and the tools: part of the Makefile. Each is built where
# there are the headers that it needs; WITH_URING=, WITH_RDMA=, WITH_CURSES= or WITH_DWFL= leaves it
# out.

have = $(shell printf '\043include <%s>\n' $(1) | $(CC) -E -x c - > /dev/null 2>&1 && echo 1)
ifeq ($(origin WITH_URING),undefined)
WITH_URING := $(call have,liburing.h)
endif
ifeq ($(origin WITH_RDMA),undefined)
WITH_RDMA := $(call have,infiniband/verbs.h rdma/rdma_cma.h)
endif
ifeq ($(origin WITH_CURSES),undefined)
WITH_CURSES := $(call have,ncurses.h)
endif
ifeq ($(origin WITH_DWFL),undefined)
WITH_DWFL := $(call have,elfutils/libdwfl.h)
endif

DEVICES := $(if $(WITH_URING),uring) $(if $(WITH_RDMA),rdma)
LIBS_uring := -luring
LIBS_rdma := -libverbs
TESTS_uring := $(basename $(notdir $(wildcard $(TOP)tests/test_uring*.c))) test_buf_ring
TESTS_rdma := test_rdma

BINDIR ?= $(PREFIX)/bin
DEVICE_CFLAGS := -I$(TOP)common
DEVICE_LIBS := $(foreach d,$(DEVICES),$(addprefix $(B)/libevplmem-$(d),.so.1 .so .a .pc))

# None where they can't be built. scripts/guest-demo runs the example.
EXAMPLES := $(if $(WITH_URING),$(EXAMPLES),$(filter-out %/copy,$(EXAMPLES)))
$(B)/examples/copy: EXAMPLE_LIBS := $(B)/libevplmem-uring.a -luring
$(B)/examples/copy: $(B)/libevplmem-uring.a
WITH_SYSTEMD := $(call have,systemd/sd-daemon.h)
EXAMPLES := $(if $(WITH_SYSTEMD),$(EXAMPLES),$(filter-out %/cache,$(EXAMPLES)))
$(B)/examples/cache: ALL_LDFLAGS += -lsystemd

# Others that take the memory: see Documentation/allocators.md. Each is built where its headers are.
HEADERS_mimalloc := mimalloc.h
LIBS_mimalloc := -lmimalloc
HEADERS_sqlite := mimalloc.h sqlite3.h
LIBS_sqlite := -lsqlite3 -lmimalloc
HEADERS_mbuf := dpdk/rte_compat.h
LIBS_mbuf = -DALLOW_EXPERIMENTAL_API $(shell pkg-config --cflags --libs libdpdk) \
	-lrte_bus_vdev -lrte_net_ring
HEADERS_fabric := rdma/fabric.h
LIBS_fabric := -lfabric
HEADERS_ucx := ucp/api/ucp.h
LIBS_ucx := -lucp -lucs
TAKERS := mimalloc sqlite mbuf fabric ucx
TAKERS_MISSING := $(foreach t,$(TAKERS),$(if $(call have,$(HEADERS_$(t))),,$(t)))
EXAMPLES := $(filter-out $(TAKERS_MISSING:%=$(B)/examples/%),$(EXAMPLES))
$(foreach t,$(filter-out $(TAKERS_MISSING),$(TAKERS)),\
	$(eval $(B)/examples/$(t): EXAMPLE_LIBS := $(LIBS_$(t))))

# A library to preload, which is tested with other programs. Its functions are those of the C
# library.
EXAMPLES := $(filter-out %/preload,$(EXAMPLES)) \
	$(if $(call have,mimalloc.h),$(B)/examples/preload.so)

$(B)/examples/preload.so: $(TOP)examples/preload.c $(B)/libevplmem.a | $(B)/examples
	$(call Q,CC)$(CC) $(ALL_CFLAGS) -fvisibility=default -MMD -MP -MF $@.d -shared -o $@ $< \
		$(B)/libevplmem.a -lmimalloc $(ALL_LDFLAGS)
DEVICE_TOOLS := $(if $(WITH_URING),$(if $(WITH_RDMA),evpl-copy evpl-probe))
TOOLS := $(DEVICE_TOOLS) $(if $(WITH_CURSES),$(if $(WITH_DWFL),evplctl))

all: $(DEVICE_LIBS) $(TOOLS:%=$(B)/%)

# $(1): the device
define device
$(B)/$(1)/%.o: $(TOP)$(1)/%.c
	@mkdir -p $$(@D)
	$$(call Q,CC)$$(CC) $$(ALL_CFLAGS) $$(DEVICE_CFLAGS) -MMD -MP -c -o $$@ $$<

OBJ_$(1) := $$(patsubst $(TOP)%.c,$(B)/%.o,$$(wildcard $(TOP)$(1)/*.c))

$(B)/libevplmem-$(1).so.1: $$(OBJ_$(1)) $(TOP)$(1)/libevplmem-$(1).map $(B)/libevplmem.so
	$$(call Q,LD)$$(CC) $$(ALL_CFLAGS) -shared -Wl,-soname,libevplmem-$(1).so.1 -Wl,-z,now \
		-Wl,--version-script=$(TOP)$(1)/libevplmem-$(1).map -o $$@ $$(OBJ_$(1)) -L$(B) -levplmem \
		$(LIBS_$(1)) $$(ALL_LDFLAGS)

$(B)/libevplmem-$(1).so: $(B)/libevplmem-$(1).so.1
	$$(call Q,LN)ln -sf libevplmem-$(1).so.1 $$@

$(B)/libevplmem-$(1).a: $$(OBJ_$(1))
	$$(call Q,AR)rm -f $$@ && $$(AR) rcs $$@ $$^

$(B)/libevplmem-$(1).pc: $(TOP)$(1)/libevplmem-$(1).pc.in FORCE | $(B)
	$$(call Q,GEN)sed -e 's|@PREFIX@|$$(PREFIX)|' -e 's|@LIBDIR@|$$(LIBDIR)|' \
		-e 's|@INCLUDEDIR@|$$(INCLUDEDIR)|' -e 's|@VERSION@|$$(VERSION)|' $$< > $$@

$$(TESTS_$(1):%=$(B)/tests/%): $(B)/tests/%: $(TOP)tests/%.c $(OBJ) $$(OBJ_$(1)) | $(B)/tests
	$$(call Q,CC)$$(CC) $$(ALL_CFLAGS) -Wno-missing-prototypes -isystem $$(KSELFTEST) \
		-I$(TOP)src -MMD -MP -MF $$@.d -o $$@ $$< $$(OBJ_$(1)) $$(OBJ) \
		$(LIBS_$(1)) $$(ALL_LDFLAGS)
endef
$(foreach d,$(DEVICES),$(eval $(call device,$(d))))

# A test of a library that isn't built isn't either. AF_XDP needs none of ours.
WITH_XDP := $(call have,xdp/xsk.h bpf/bpf.h)
TESTS := $(filter-out $(if $(WITH_URING),,$(addprefix %/,$(TESTS_uring))) \
	$(if $(WITH_RDMA),,$(addprefix %/,$(TESTS_rdma))) $(if $(WITH_XDP),,%/test_xdp),$(TESTS))
$(B)/tests/test_xdp: ALL_LDFLAGS += -lxdp -lbpf

$(B)/tools/%.o: $(TOP)tools/%.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(ALL_CFLAGS) $(DEVICE_CFLAGS) -DEVPL_VERSION='"$(VERSION)"' \
		-MMD -MP -c -o $@ $<

# Tools have our libraries in them, so that they run from wherever they are.
$(DEVICE_TOOLS:%=$(B)/%): $(B)/libevplmem-uring.a $(B)/libevplmem-rdma.a $(B)/libevplmem.a
$(DEVICE_TOOLS:%=$(B)/%): TOOL_LIBS := -luring -lrdmacm -libverbs
$(B)/evplctl: TOOL_LIBS := -lncursesw -ldw

# $(1): the tool
define tool
$(B)/$(1): $(patsubst $(TOP)tools/%.c,$(B)/tools/%.o,$(wildcard $(TOP)tools/$(1)/*.c))
	$$(call Q,LD)$$(CC) $$(ALL_CFLAGS) -o $$@ $$(filter %.o,$$^) $$(filter %.a,$$^) $$(TOOL_LIBS) $$(ALL_LDFLAGS)
endef
$(foreach t,$(TOOLS),$(eval $(call tool,$(t))))

install: install-devices
install-devices: $(DEVICE_LIBS) $(TOOLS:%=$(B)/%)
	$(INSTALL) -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR) \
		$(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(BINDIR)
	$(foreach d,$(DEVICES),\
	$(INSTALL) -m 755 $(B)/libevplmem-$(d).so.1 $(DESTDIR)$(LIBDIR) && \
	ln -sf libevplmem-$(d).so.1 $(DESTDIR)$(LIBDIR)/libevplmem-$(d).so && \
	$(INSTALL) -m 644 $(B)/libevplmem-$(d).a $(DESTDIR)$(LIBDIR) && \
	$(INSTALL) -m 644 $(B)/libevplmem-$(d).pc $(DESTDIR)$(LIBDIR)/pkgconfig && \
	$(INSTALL) -m 644 $(TOP)include/evplmem-$(d).h $(DESTDIR)$(INCLUDEDIR) &&) true
	$(foreach t,$(TOOLS),\
	$(INSTALL) -m 755 $(B)/$(t) $(DESTDIR)$(BINDIR) && \
	$(INSTALL) -m 644 $(TOP)man/$(t).1 $(DESTDIR)$(MANDIR)/man1 &&) true

install-check-devices: install-check
	CC='$(CC)' CXX='$(CXX)' $(TOP)tests/install/check-devices $(abspath $(B))/install

# These run over RDMA in the virtual machine. libfabric 2.1 doesn't: see
# Documentation/allocators.md.
TAKERS_RDMA := ucx \
	$(if $(shell pkg-config --exists 'libfabric < 2' 2> /dev/null && echo 1),fabric)

# For the virtual machine, where EVPL_BACKEND=module: a test of what needs an RDMA
# device makes itself one there. The examples tell by their exit status, except the one that
# scripts/guest-demo runs. Some are run with an argument.
VM_TESTS := $(filter-out %/test_rdma,$(TESTS)) $(if $(WITH_RDMA),$(B)/tests/rdma.sh) \
	$(if $(DEVICE_TOOLS),$(B)/tests/probe.sh) \
	$(if $(filter evplctl,$(TOOLS)),$(B)/tests/evplctl.sh $(B)/tests/sites.sh) \
	$(if $(PYTHON_SKIP),,$(B)/tests/python.sh) $(B)/tests/publish-lane.sh $(B)/tests/serve.sh \
	$(patsubst $(B)/examples/%,$(B)/tests/%-rdma.sh,$(filter $(addprefix %/,$(TAKERS_RDMA)),$(EXAMPLES))) \
	$(if $(WITH_SYSTEMD),$(B)/tests/cache.sh) $(if $(filter %.so,$(EXAMPLES)),$(B)/tests/preload.sh) \
	$(filter-out %/copy %/serve %/cache %/leak %.so $(addprefix %/,$(TAKERS_RDMA)),$(EXAMPLES))

vmtests: $(TESTS) $(VM_TESTS)

# $(1): the command that the script is to run
script = @printf '\043!/bin/sh\nexec %s\n' '$(1)' > $@ && chmod +x $@

$(B)/tests/rdma.sh: $(TOP)tests/with-rxe FORCE | $(B)/tests
	$(call script,$(abspath $< $(B)/tests/test_rdma))

$(B)/tests/probe.sh: $(TOP)tests/with-rxe $(B)/evpl-probe FORCE | $(B)/tests
	$(call script,$(abspath $< $(TOP)tests/probe.py $(B)/evpl-probe))

$(B)/tests/evplctl.sh: $(TOP)tests/evplctl.py $(B)/evplctl $(B)/tests/storm FORCE | $(B)/tests
	$(call script,$(abspath $< $(B)/evplctl $(B)/tests/storm))

# The kselftest, which evplctl is to look at.
$(B)/tests/storm: $(TOP)../selftests/storm.c $(wildcard $(TOP)../selftests/*.h) | $(B)/tests
	$(call Q,CC)$(CC) -O2 -g -D_GNU_SOURCE -pthread -fms-extensions $(if $(PAGE),-DPAGE=$(PAGE)UL) \
		-I$(TOP)../uapi -isystem $(KSELFTEST) -o $@ $<

$(B)/tests/publish-lane.sh: $(B)/examples/publish FORCE | $(B)/tests
	$(call script,$(abspath $<) --lane)

$(B)/tests/serve.sh: $(B)/examples/serve FORCE | $(B)/tests
	$(call script,$(abspath $<) --check)

# Over RDMA a slab is pinned as a memory region, and a key that is wrong is refused. libfabric makes
# completion queues for 256 peers, unless it is told that there are fewer, and soft-RoCE has no
# queues of that length. UCX connects by datagrams, which get to a device on a dummy network device
# by its own GID alone.
RDMA_fabric := FI_PROVIDER=verbs FI_UNIVERSE_SIZE=2
RDMA_ucx := UCX_TLS=rc,ud UCX_NET_DEVICES=all UCX_IB_GID_INDEX=0

$(B)/tests/%-rdma.sh: $(TOP)tests/with-rxe $(B)/examples/% FORCE | $(B)/tests
	$(call script,env $(RDMA_$*) $(abspath $< $(B)/examples/$*))

$(B)/tests/cache.sh: $(B)/examples/cache FORCE | $(B)/tests
	$(call script,$(abspath $<) --check)

$(B)/tests/preload.sh: $(TOP)tests/preload.py $(B)/examples/preload.so FORCE | $(B)/tests
	$(call script,$(abspath $< $(B)/examples/preload.so))

$(B)/tests/sites.sh: $(TOP)tests/sites.py $(B)/evplctl $(B)/examples/leak FORCE | $(B)/tests
	$(call script,$(abspath $< $(B)/evplctl $(B)/examples/leak))

# These need no module. With the anon back end they run on this machine. Where none can be built,
# all are skipped.
TAKERS_BUILT := $(filter-out $(TAKERS_MISSING),$(TAKERS))

run-takers: $(TAKERS_BUILT:%=$(B)/examples/%) $(filter %.so,$(EXAMPLES))
	@{ for taker in $(TAKERS_BUILT); do \
		EVPL_BACKEND=$(EVPL_BACKEND) $(TOP)../scripts/tap example-$$taker \
			timeout -k 10 300 $(B)/examples/$$taker; \
	done; \
	if [ -n '$(filter mimalloc,$(TAKERS_BUILT))' ]; then \
		EVPL_BACKEND=$(EVPL_BACKEND) $(TOP)../scripts/tap preload.py \
			timeout -k 10 600 $(TOP)tests/preload.py $(B)/examples/preload.so; \
	fi; \
	for taker in $(TAKERS_MISSING); do \
		echo "ok - example-$$taker # SKIP its library isn't installed"; \
	done; } | { $(TOP)../scripts/tap -t || [ -z '$(TAKERS_BUILT)' ]; }

vmlist:
	@printf '%s\n' $(abspath $(VM_TESTS))

.PHONY: install-devices install-check-devices run-takers vmtests vmlist
-include $(wildcard $(B)/uring/*.d $(B)/rdma/*.d $(B)/tools/*/*.d)
