# SPDX-License-Identifier: GPL-2.0-only
#
# Everything generated goes to build/. 'make help' lists the targets.

KDIR ?= /lib/modules/$(shell uname -r)/build
PREFIX ?= /usr/local
UDEVDIR ?= /usr/lib/udev/rules.d
SYSUSERSDIR ?= /usr/lib/sysusers.d
B := $(CURDIR)/build
LIB := $(MAKE) --no-print-directory -C userlib B=$(B)/userlib

all: module lib

help:
	@echo 'make                the module for the running kernel, and the library'
	@echo 'make module KDIR=D  the module for the kernel that D has the headers of'
	@echo 'make lib            the library'
	@echo 'make check          the tests; HOST=1: without a virtual machine'
	@echo 'make check-debug    the tests of the module, on a kernel that looks for bugs'
	@echo 'make check-long     the rest: data races, PREEMPT_RT, a long storm, containers, bare machines'
	@echo 'make coverage       the lines of the module that check-debug did not reach'
	@echo 'make check-mutants  plants bugs on purpose, and checks that the tests find them; MUTANTS='
	@echo 'make fuzz           random calls on a kernel that looks for bugs; MINUTES=10'
	@echo 'make bench          the costs, compared with others; KEEP=1: for the README'
	@echo 'make bench-check    instructions of the hot paths, compared with the kept counts'
	@echo 'make demo           a file goes from disk, over RDMA, to disk; HOST=1 too'
	@echo 'make install        the libraries, headers, pages, tools, a udev rule; DESTDIR=, PREFIX='
	@echo 'make install-python the package of Python; DESTDIR=, PREFIX='
	@echo 'make install-dkms   the module, as sources for dkms; DESTDIR='
	@echo 'make deb            packages of Debian, in build/deb'
	@echo 'make dist           the sources, in an archive in build/'
	@echo 'make lint           the style checks alone'
	@echo 'make vm-shell       a shell in the virtual machine; VM="-k 6.1 -n 2": its options'
	@echo 'make clean          removes build/'

module:
	@MAKEFLAGS= scripts/build-module $(KDIR) $(B)/module

lib:
	+@$(LIB)

check:
	@HOST=$(HOST) scripts/check

check-debug:
	@scripts/check debug

# This takes some hours.
check-long:
	@scripts/check long

# The coverage that the last 'make check-debug' printed.
coverage:
	@[ -e $(B)/check-debug.tap ] || scripts/check debug
	@grep -q '^# kasan coverage: ' $(B)/check-debug.tap || \
		{ echo 'coverage: the last check-debug printed no coverage; run it again' >&2; false; }
	@sed -n 's/^# kasan coverage: //p' $(B)/check-debug.tap

check-mutants:
	@scripts/packages
	@scripts/check-mutants $(MUTANTS)

fuzz:
	@scripts/packages
	@MINUTES=$(MINUTES) scripts/fuzz

bench:
	@scripts/packages bench
	@KEEP=$(KEEP) scripts/bench

bench-check:
	@scripts/packages
	@KEEP=$(KEEP) scripts/bench-check

demo:
	@scripts/packages
	@HOST=$(HOST) scripts/demo

install: lib
	+@$(LIB) install DESTDIR=$(DESTDIR) PREFIX=$(PREFIX)
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/include/linux uapi/linux/evpl.h
	install -D -m 644 -t $(DESTDIR)$(UDEVDIR) udev/60-evpl.rules
	install -D -m 644 udev/evpl.sysusers $(DESTDIR)$(SYSUSERSDIR)/evpl.conf

install-python:
	@$(LIB) install-python DESTDIR=$(DESTDIR) PREFIX=$(PREFIX)

# dkms builds the module from its sources for each kernel that is installed.
DKMS_VERSION = $(shell scripts/version)
DKMS = $(DESTDIR)/usr/src/evpl-$(DKMS_VERSION)

install-dkms:
	install -D -m 644 -t $(DKMS) Kbuild
	sed 's/@VERSION@/$(DKMS_VERSION)/' dkms.conf.in | install -m 644 /dev/stdin $(DKMS)/dkms.conf
	install -D -m 644 -t $(DKMS)/kernel kernel/*.[ch]
	install -D -m 644 -t $(DKMS)/uapi/linux uapi/linux/evpl.h

dist:
	@scripts/dist

deb:
	@scripts/deb

lint:
	@scripts/packages
	@scripts/lint

vm-shell:
	@scripts/packages
	@scripts/vm $(VM) -s

clean:
	rm -rf $(B)

.PHONY: all help module lib check check-debug check-long coverage check-mutants fuzz \
	bench bench-check demo install install-python install-dkms dist deb lint vm-shell clean
