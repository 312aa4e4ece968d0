# One Makefile, no recursion into folders. Objects go to build/$(MODE)/, so modes never mix. `make help` lists targets.
# This file compiles and links; everything else (tests, tools, install) is in ops/make/targets.mk.
MAKEFLAGS += -rR
.SUFFIXES:

MODE    ?= release
B       := build/$(MODE)
CC      := $(if $(filter-out default undefined,$(origin CC)),$(CC),cc)
PREFIX  ?= /usr/local
DESTDIR ?=
Q       := $(if $(V),,@)
ARCH    := $(shell uname -m)

PKGS    := libzmq libsodium jansson sqlite3 libpcre2-8 libutf8proc inih libxxhash hwloc libseccomp
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
EDIT_LIBS  := $(shell pkg-config --libs libedit 2>/dev/null)
# Calibration: only what calls it needs it at run time.
BLAS_LIBS  := -Wl,--push-state,--as-needed -llapacke -lopenblas -Wl,--pop-state

CFLAGS.release := -O2 -DNDEBUG
CFLAGS.debug   := -O0
CFLAGS.asan    := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CFLAGS.tsan    := -O1 -fsanitize=thread -fno-omit-frame-pointer
CFLAGS.cover   := -O0 --coverage -fprofile-update=atomic -DSLUICE_NO_SANDBOX
ifndef CFLAGS.$(MODE)
$(error MODE=$(MODE): unknown mode (release, debug, asan, tsan, cover))
endif

WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wconversion -Wno-sign-conversion
ifeq ($(findstring clang,$(CC)),)
WARN     += -Wno-format-truncation
endif
# The numerics contract allows no other contraction or reordering than the one written down, so these come after CFLAGS
# and EXTRA, which belong to whoever builds.
NUMERICS := -fno-fast-math -ffp-contract=off -fno-math-errno
CFLAGS   ?=
COMPILE   = $(CC) -I. -I$(B) -D_GNU_SOURCE -MMD -MP $(PKG_CFLAGS) $(CPPFLAGS) -std=c11 -g -pthread $(WARN) \
            $(CFLAGS.$(MODE)) $(CFLAGS) $(EXTRA) $(NUMERICS)
LINK      = $(CC) $(CFLAGS.$(MODE)) $(CFLAGS) $(EXTRA) -pthread $(LDFLAGS) $(filter %.o %.a,$^) -o $@
LIBS      = $(PKG_LIBS) -lmsgpackc -lm -ldl $(LDLIBS)

# Only these files may use wider instructions; the choice is made at run time (core/isa.c).
ifeq ($(ARCH),x86_64)
ISA_AVX2 := -mavx2 -mfma -mf16c
ISA_AVX512VNNI := $(ISA_AVX2) -mavx512f -mavx512bw -mavx512vl -mavx512vnni
ISA_AVX512BF16 := $(ISA_AVX512VNNI) -mavx512bf16
ISA_AMX := $(ISA_AVX512BF16) -mamx-tile -mamx-int8 -mamx-bf16
# gcc before 12.4 and 13.3 aligns ASan's frames that outlive their function to 32 bytes where such code counts on 64 (gcc bug 110027).
ISA_FRAMES := $(if $(filter asan,$(MODE)),--param asan-use-after-return=0)
ISA_FMA  := -mfma
endif

LIB_SRC   := $(wildcard core/*.c proto/*.c kvstore/*.c kvstore/policy/*.c engine/*.c)
CO_SRC    := $(filter-out coordinator/main.c,$(wildcard coordinator/*.c))
ST_SRC    := $(filter-out workers/stage/main.c,$(wildcard workers/stage/*.c))
RAG_SRC   := $(filter-out workers/rag/main.c,$(wildcard workers/rag/*.c))
CLI_SRC   := $(wildcard ops/cli/*.c)
# sluice plan makes the same splits as the coordinator.
PLAN_SRC  := coordinator/costs.c coordinator/measure.c coordinator/plan.c coordinator/route_policies.c
TOOL_SRC  := $(wildcard ops/tools/*.c)
TEST_SRC  := $(wildcard tests/unit/test_*.c tests/flow/test_*.c tests/faults/test_*.c)
BENCH_SRC := $(wildcard tests/bench/bench_*.c)
HELP_SRC  := $(wildcard tests/support*.c tests/flow/rig*.c)
# Criterion cannot run under ThreadSanitizer; tests/mini can.
ifeq ($(MODE),tsan)
TEST_INC  := -Itests/mini
HELP_SRC  += tests/mini/runner.c
else
TEST_LIBS := -lcriterion
endif
obj        = $(patsubst %.c,$(B)/obj/%.o,$(1))

LIB       := $(B)/libsluice.a
PARTS     := $(B)/libparts.a
BINS      := $(B)/sluice $(B)/sluice-coordinator $(B)/sluice-stage $(B)/sluice-rag
TESTS     := $(TEST_SRC:%.c=$(B)/%)
BENCHES   := $(BENCH_SRC:%.c=$(B)/%)
TOOLS     := $(TOOL_SRC:%.c=$(B)/%)
# The fault rig's own programs, and what is preloaded into the product's there.
RIG_SRC   := $(filter-out tests/faults/test_%.c tests/faults/shim.c,$(wildcard tests/faults/*.c))
RIG_MAIN  := $(wildcard tests/faults/faults.c tests/faults/soak.c)
RIG       := $(RIG_MAIN:%.c=$(B)/%) $(B)/tests/faults/proxy $(B)/tests/faults/shim.so
SRC       := $(LIB_SRC) $(CO_SRC) $(ST_SRC) $(RAG_SRC) $(CLI_SRC) $(TOOL_SRC) $(TEST_SRC) $(BENCH_SRC) $(HELP_SRC) $(RIG_SRC) \
             coordinator/main.c workers/stage/main.c workers/rag/main.c

.PHONY: all FORCE
.SECONDARY:
.DELETE_ON_ERROR:
all: $(BINS)          ## build the four programs (MODE=release, debug, asan, tsan, cover)

$(B)/sluice: $(call obj,$(CLI_SRC) $(RAG_SRC) $(PLAN_SRC)) $(LIB)
$(B)/sluice-coordinator: $(call obj,coordinator/main.c $(CO_SRC)) $(LIB)
$(B)/sluice-stage: $(call obj,workers/stage/main.c $(ST_SRC)) $(LIB)
$(B)/sluice-rag: $(call obj,workers/rag/main.c $(RAG_SRC)) $(LIB)
# Of the programs only the one that talks to people edits lines; tests and tools may take parts of it.
$(B)/sluice $(TESTS) $(TOOLS) $(BENCHES) $(RIG_MAIN:%.c=$(B)/%): LIBS += $(EDIT_LIBS) $(BLAS_LIBS)
$(BINS):
	$(Q)echo "  LD    $@"; $(LINK) $(LIBS)
# Tests, benches and tools link the programs' parts as an archive: each takes only the objects that it names.
$(LIB): $(call obj,$(LIB_SRC))
$(PARTS): $(call obj,$(CO_SRC) $(ST_SRC) $(RAG_SRC) $(filter-out ops/cli/main.c,$(CLI_SRC)))
$(LIB) $(PARTS):
	$(Q)echo "  AR    $@"; rm -f $@; ar rcs $@ $^
$(TESTS): $(B)/tests/%: $(B)/obj/tests/%.o $(call obj,$(HELP_SRC)) $(PARTS) $(LIB)
	$(Q)mkdir -p $(@D); echo "  LD    $@"; $(LINK) $(TEST_LIBS) $(LIBS)
# This test counts what our own objects take from the heap; the libraries' own calls do not pass these names.
$(B)/tests/flow/test_step_heap: LDFLAGS += $(foreach f,malloc calloc realloc aligned_alloc free,-Wl,--wrap=$(f))
# And this one gives stages the tile kernels over tiles in plain C.
$(B)/tests/flow/test_contract_tiles: LDFLAGS += -Wl,--wrap=kernels_for -Wl,--wrap=isa_supported
$(BENCHES): $(B)/tests/%: $(B)/obj/tests/%.o $(call obj,$(wildcard tests/support*.c)) $(PARTS) $(LIB)
	$(Q)mkdir -p $(@D); echo "  LD    $@"; $(LINK) $(LIBS)
$(B)/tests/faults/test_faults: | $(RIG)
$(RIG_MAIN:%.c=$(B)/%): $(B)/%: $(B)/obj/%.o $(call obj,$(filter-out $(RIG_MAIN) tests/faults/proxy.c,$(RIG_SRC)) $(wildcard tests/support*.c)) $(PARTS) $(LIB)
	$(Q)mkdir -p $(@D); echo "  LD    $@"; $(LINK) $(LIBS)
$(B)/tests/faults/proxy: $(B)/obj/tests/faults/proxy.o $(LIB)
	$(Q)mkdir -p $(@D); echo "  LD    $@"; $(LINK) $(LIBS)
$(B)/tests/faults/shim.so: tests/faults/shim.c tests/faults/observed.h $(B)/flags.stamp
	$(Q)mkdir -p $(@D); echo "  LD    $@"; $(CC) -I. -D_GNU_SOURCE -std=c11 -O2 -g -fPIC -shared $(WARN) $< -o $@ -ldl
$(TOOLS): $(B)/%: $(B)/obj/%.o $(PARTS) $(LIB)
	$(Q)mkdir -p $(@D); echo "  LD    $@"; $(LINK) $(LIBS)

$(B)/obj/%_avx2.o: ISA := $(ISA_AVX2)
$(B)/obj/%_avx512vnni.o: ISA := $(ISA_AVX512VNNI) $(ISA_FRAMES)
$(B)/obj/%_avx512bf16.o: ISA := $(ISA_AVX512BF16) $(ISA_FRAMES)
$(B)/obj/%_amx.o: ISA := $(ISA_AMX) $(ISA_FRAMES)
$(B)/obj/%_plain.o: ISA := $(ISA_FMA)
$(B)/obj/%.o: %.c $(B)/flags.stamp
	$(Q)mkdir -p $(@D); echo "  CC    $<"; $(COMPILE) $(DEFS) $(ISA) -c $< -o $@

# A stamp is rewritten only when its text changes, and what depends on it is then made again.
stamp = mkdir -p $(@D); printf '%s\n' '$(subst ','\'',$(1))' | cmp -s - $@ || printf '%s\n' '$(subst ','\'',$(1))' > $@
$(B)/flags.stamp: FORCE
	@$(call stamp,$(COMPILE) $(LDFLAGS))
ifndef SLUICE_REV
SLUICE_REV := $(shell git describe --always --dirty --abbrev=9 2>/dev/null || echo unknown)
endif
$(B)/rev.stamp: FORCE
	@$(call stamp,$(SLUICE_REV))
$(B)/obj/ops/cli/version.o: $(B)/rev.stamp
$(B)/obj/ops/cli/version.o: DEFS := -DSLUICE_REV='"$(SLUICE_REV)"'
$(B)/obj/tests/%.o: DEFS = $(TEST_INC)
$(B)/obj/tests/support.o: DEFS = -DTEST_BIN_DIR='"$(abspath $(B))"' -DTEST_ROOT='"$(CURDIR)"'

include ops/make/targets.mk
-include $(wildcard $(patsubst %.o,%.d,$(call obj,$(SRC))))
Makefile ops/make/targets.mk: ;
%.d: ;
