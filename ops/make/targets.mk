# Everything that is not compiling and linking: set-up, tests, benches, fuzzing, tools, install.
.PHONY: bootstrap run demo test test-all test-unit test-flow asan tsan kills corrupt cover bench bench-kernels bench-all
.PHONY: namespaces fuzz fuzz-run fuzz-build fuzz-keep fuzz-cover fuzz-cover-run
.PHONY: fmt tidy protocol install install-files uninstall clean help

# Sub-makes use every core unless the caller chose. They also see packages that bootstrap has only just installed, which
# this make, parsed before, does not.
PARALLEL = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))
SUBMAKE = $(MAKE) --no-print-directory $(PARALLEL)

bootstrap:                      ## install missing packages (Debian 12); needs no network when all are there
	$(Q)ops/bootstrap --check >/dev/null 2>&1 || ops/bootstrap

# ---- run
run: bootstrap                  ## build, then answer a question from the demo corpus
	+$(Q)$(SUBMAKE) demo
demo: $(BINS)
	$(Q)ops/demo.sh $(B)

# ---- test.  T="err pages" picks tests/*/test_err.c and test_pages.c
T         ?=
picked     = $(if $(T),$(filter $(T:%=$(B)/tests/\%/test_%) $(foreach t,$(T),$(B)/tests/unit/test_$t $(B)/tests/flow/test_$t \
             $(B)/tests/faults/test_$t),$(1)),$(1))
TEST_LIMIT ?= $(if $(filter asan tsan cover,$(MODE)),1800,600)
# Sanitizers write to files and not to stderr: Criterion calls a test that leaks or races in a child of its own "ok", and
# a program's stderr may be captured. tests/run.sh counts every report file as a failure.
REPORTS   := $(CURDIR)/$(B)/report
TEST_ENV   = TEST_LIMIT=$(TEST_LIMIT) TEST_REPORTS=$(if $(filter asan tsan,$(MODE)),$(REPORTS)) \
             ASAN_OPTIONS=log_path=$(REPORTS):detect_stack_use_after_return=1:allocator_may_return_null=1 \
             UBSAN_OPTIONS=log_path=$(REPORTS):print_stacktrace=1 \
             TSAN_OPTIONS=log_path=$(REPORTS):suppressions=$(CURDIR)/ops/tsan.supp:allocator_may_return_null=1
RUN_TESTS  = $(Q)$(TEST_ENV) tests/run.sh

test: bootstrap                 ## build and run all tests (T="name name" picks some, MODE=debug has asserts on)
	+$(Q)$(SUBMAKE) test-all
test-all: $(BINS) $(call picked,$(TESTS))
	$(RUN_TESTS) $(call picked,$(TESTS))
namespaces: $(BINS) $(B)/tests/faults/test_namespaces       ## two hosts and a third in network namespaces: partition, heal, take-over
	$(RUN_TESTS) $(B)/tests/faults/test_namespaces
test-unit: $(call picked,$(filter $(B)/tests/unit/%,$(TESTS)))          ## only tests/unit; does not build the programs
	$(RUN_TESTS) $^
test-flow: $(call picked,$(filter-out $(B)/tests/unit/%,$(TESTS))) | $(BINS)    ## only tests that start whole clusters
	$(RUN_TESTS) $^
asan: bootstrap                 ## all tests under AddressSanitizer and UBSan
	+$(Q)$(SUBMAKE) MODE=asan test-all
tsan: bootstrap                 ## all tests under ThreadSanitizer (T=name picks)
	+$(Q)$(SUBMAKE) MODE=tsan test-all
# N kills of the coordinator at random moments (SEED repeats a run); the short form is one of the tests.
N         ?= 200
SEED      ?=
kills: bootstrap                ## kill -9 of the coordinator at N random moments (N=200 SEED=): no job lost, doubled or changed
	+$(Q)$(SUBMAKE) $(BINS) $(B)/tests/faults/test_kills
	$(Q)KILLS_N=$(N) $(if $(SEED),TEST_SEED=$(SEED)) TEST_LIMIT=7200 tests/run.sh $(B)/tests/faults/test_kills
FRAMES    ?= 100000
corrupt: bootstrap              ## FRAMES=100000 damaged and forged messages at every socket of a live cluster, SEED=N repeats them
	+$(Q)$(SUBMAKE) $(BINS) $(B)/tests/faults/test_corrupt
	$(Q)CORRUPT_FRAMES=$(FRAMES) $(if $(SEED),TEST_SEED=$(SEED)) TEST_LIMIT=7200 tests/run.sh $(B)/tests/faults/test_corrupt
cover: bootstrap                ## line coverage of all tests, by file
	$(Q)find build/cover -name '*.gcda' -delete 2>/dev/null || true
	+$(Q)$(SUBMAKE) MODE=cover test-all
	$(Q)ops/cover.sh build/cover

# ---- faults: jobs under blows; soak: jobs for long.  Figures to build/faults.txt, build/soak.csv
.PHONY: faults faults-run soak soak-run soak-short
EVENTS  ?= 1000
JOBS    ?= 2000
MINUTES ?= 30
faults: bootstrap               ## the fault rig: EVENTS=1000 blows under JOBS=2000 jobs, SEED=N repeats a schedule
	+$(Q)$(SUBMAKE) faults-run
faults-run: $(BINS) $(RIG)
	$(Q)EVENTS=$(EVENTS) JOBS=$(JOBS) SEED=$(SEED) bash -o pipefail -c '$(B)/tests/faults/faults 2>&1 | tee build/faults.txt'
soak: bootstrap                 ## MINUTES=30 of mixed load with a death a minute: does memory stay flat? build/soak.csv
	+$(Q)$(SUBMAKE) soak-run
soak-run: $(BINS) $(RIG)
	$(Q)rm -f $(REPORTS).*; $(TEST_ENV) MINUTES=$(MINUTES) SEED=$(SEED) $(B)/tests/faults/soak build/soak.csv; s=$$?; \
	if cat $(REPORTS).* 2>/dev/null; then echo "a sanitizer reported"; exit 1; fi; exit $$s
soak-short:                     ## 75 s of it (MODE=asan or tsan: must be clean)
	+$(Q)$(SUBMAKE) soak-run MINUTES=1.25

# ---- bench: what a program prints is shown; cells with two spaces or a comma between become a row of the CSV file
bench-kernels: bootstrap        ## only the matrix kernels, with a roofline measured in the same run
	+$(Q)$(SUBMAKE) bench-all T=kernels
bench: bootstrap                ## run tests/bench (T=name picks) and sluice bench (BENCH_MODEL=, BENCH_WAY=), CSV and SVG in build/
	+$(Q)$(SUBMAKE) bench-all
BENCH_MODEL ?= models/sluice-tiny-Q8_0.gguf
BENCH_WAY   ?= --stages 1
BENCH_PICK = $(if $(T),$(T:%=$(B)/tests/bench/bench_%),$(BENCHES))
bench-all: $(BINS) $(BENCH_PICK)
	$(Q)test -n "$(BENCH_PICK)" || { echo "no tests/bench/bench_*.c" >&2; exit 1; }
	$(Q)rm -f build/bench.csv; set -e; for b in $(BENCH_PICK); do n=$${b##*/bench_}; echo "  BENCH $$n"; $$b > build/bench.part; \
	cat build/bench.part; sed -E "s/ *(,|\t|  +) */,/g; s/^,*/$$n,/" build/bench.part >> build/bench.csv; done; \
	rm -f build/bench.part; echo "figures: build/bench.csv"
ifeq ($(T),)
	$(Q)for s in pp/tg batch serve; do n=$${s%%/*}; echo "  BENCH $$s"; $(B)/sluice bench $$s -m $(BENCH_MODEL) $(BENCH_WAY) -o csv \
	--plot build/bench-$$n.svg > build/bench-$$n.csv && cat build/bench-$$n.csv || exit 1; done; echo "charts: build/bench-*.svg"
endif

# ---- fuzz: the product compiled by clang once more, with coverage for libFuzzer.  tests/fuzz/corpus/NAME.tar.gz holds the kept
# inputs; campaigns add to build/fuzz/corpus/NAME, and `make fuzz-keep` packs what of that reaches most
F            ?=
FUZZ_SECONDS ?= 60
FUZZ_RUNS    ?= -1
FUZZ_CC      ?= clang
FB           := build/fuzz
FUZZ_SRC     := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_NAMES   := $(FUZZ_SRC:tests/fuzz/fuzz_%.c=%)
FUZZ_HELP    := tests/fuzz/kit.c tests/fuzz/made.c
FUZZ_PICK     = $(or $(F),$(FUZZ_NAMES))
FUZZ_PART    := $(LIB_SRC) $(CO_SRC) $(ST_SRC) $(RAG_SRC) $(filter-out ops/cli/main.c,$(CLI_SRC))
FUZZ_CF       = -I. -I$(FB) -D_GNU_SOURCE -DSLUICE_REV='"fuzz"' -MMD -MP $(PKG_CFLAGS) -std=c11 -g -O1 -pthread -fno-omit-frame-pointer \
                -Wno-pass-failed $(FUZZ_SAN) $(EXTRA) $(NUMERICS)
FUZZ_SAN     := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
fobj          = $(patsubst %.c,$(FB)/obj/%.o,$(1))
fuzz: bootstrap                 ## run libFuzzer targets (F=name picks one, FUZZ_SECONDS=60 each)
	+$(Q)$(SUBMAKE) fuzz-run
fuzz-run: $(FUZZ_PICK:%=$(FB)/fuzz_%) $(FUZZ_PICK:%=$(FB)/corpus/%/stamp)
	$(Q)test -n "$(FUZZ_PICK)" || { echo "no tests/fuzz/fuzz_*.c" >&2; exit 1; }
	$(Q)set -e; for n in $(FUZZ_PICK); do echo "  FUZZ  $$n ($(FUZZ_SECONDS) s)"; ops/fuzz.sh $(FB) $$n $(FUZZ_SECONDS) $(FUZZ_RUNS); done
fuzz-build: $(FUZZ_NAMES:%=$(FB)/fuzz_%)
fuzz-keep: $(FUZZ_PICK:%=$(FB)/fuzz_%)                 ## pack the inputs that reach most into tests/fuzz/corpus (F=name)
	$(Q)for n in $(FUZZ_PICK); do ops/fuzz.sh --keep $(FB) $$n || exit 1; done
fuzz-cover: bootstrap           ## line coverage of each parser's file by the campaigns' inputs (F=name)
	+$(Q)$(SUBMAKE) MODE=cover fuzz-cover-run
fuzz-cover-run: $(FUZZ_PICK:%=$(B)/tests/fuzz/fuzz_%) $(FUZZ_PICK:%=$(FB)/corpus/%/stamp)
	$(Q)ops/fuzz.sh --cover $(B) $(FUZZ_PICK)
# What tests/flow/test_fuzz.c runs: the targets of this build, and those of libFuzzer where it is and nobody asked for another build.
$(B)/tests/flow/test_fuzz: | $(FUZZ_NAMES:%=$(B)/tests/fuzz/fuzz_%) $(if $(filter release,$(MODE)),$(FB)/short)
$(FB)/short: FORCE
	+$(Q)mkdir -p $(FB); if printf 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { return 0; }' | \
	$(FUZZ_CC) -w -fsanitize=fuzzer,address,undefined -x c - -o $(FB)/probe >/dev/null 2>&1; then $(SUBMAKE) fuzz-build && touch $@; \
	else echo "  FUZZ  no libFuzzer: $(FUZZ_CC) and libclang-rt are missing"; rm -f $(FB)/fuzz_*; fi
$(FB)/corpus/%/stamp: $(wildcard tests/fuzz/corpus/*.tar.gz)
	$(Q)mkdir -p $(@D) && { test ! -f tests/fuzz/corpus/$*.tar.gz || tar -xzf tests/fuzz/corpus/$*.tar.gz -C $(@D); } && touch $@
$(FUZZ_NAMES:%=$(FB)/fuzz_%): $(FB)/%: $(FB)/obj/tests/fuzz/%.o $(call fobj,$(FUZZ_HELP)) $(FB)/libproduct.a
	$(Q)mkdir -p $(@D); echo "  LD    $@"; $(FUZZ_CC) -fsanitize=fuzzer,address,undefined -pthread $^ -o $@ $(LIBS) $(EDIT_LIBS) $(BLAS_LIBS)
$(FUZZ_NAMES:%=$(B)/tests/fuzz/fuzz_%): $(B)/tests/fuzz/%: $(B)/obj/tests/fuzz/%.o $(call obj,$(FUZZ_HELP) tests/fuzz/replay.c) $(PARTS) $(LIB)
	$(Q)mkdir -p $(@D); echo "  LD    $@"; $(LINK) $(LIBS) $(EDIT_LIBS) $(BLAS_LIBS)
$(FB)/flags.stamp: FORCE
	@$(call stamp,$(FUZZ_CC) $(FUZZ_CF) $(FUZZ_PART))
$(FB)/libproduct.a: $(call fobj,$(FUZZ_PART))
	$(Q)echo "  AR    $@"; rm -f $@; ar rcs $@ $^
# Unrolled kernels with checks around every load take clang minutes; MODE=asan has them.
$(FB)/obj/%_avx2.o $(FB)/obj/%_avx512vnni.o $(FB)/obj/%_avx512bf16.o $(FB)/obj/%_amx.o: FUZZ_SAN :=
$(FB)/obj/%_avx2.o: ISA := $(ISA_AVX2)
$(FB)/obj/%_avx512vnni.o: ISA := $(ISA_AVX512VNNI)
$(FB)/obj/%_avx512bf16.o: ISA := $(ISA_AVX512BF16)
$(FB)/obj/%_amx.o: ISA := $(ISA_AMX) -D__AMX_INT8__ -D__AMX_BF16__   # clang 14 has no second underline in them
$(FB)/obj/%_plain.o: ISA := $(ISA_FMA)
$(FB)/obj/%.o: %.c $(FB)/flags.stamp
	$(Q)mkdir -p $(@D); echo "  CC    $< (fuzz)"; $(FUZZ_CC) $(FUZZ_CF) $(ISA) -c $< -o $@
-include $(wildcard $(patsubst %.o,%.d,$(call fobj,$(FUZZ_PART) $(FUZZ_SRC) $(FUZZ_HELP))))
-include $(wildcard $(patsubst %.o,%.d,$(call obj,$(FUZZ_SRC) $(FUZZ_HELP) tests/fuzz/replay.c)))

# ---- source tools; they look at files that git knows, so build/ and strangers are left alone
FILES    ?=
C_FILES   = $(if $(FILES),$(FILES),$$(git ls-files --cached --others --exclude-standard $(1)))
# clang-format 14 cannot keep columns of comments and one-line structs, so whole files are formatted only when named.
fmt:                            ## clang-format changed lines (FILES="a.c b.c": whole files; CHECK=1: only report)
	$(Q)command -v git-clang-format >/dev/null || { echo "clang-format is missing: ops/bootstrap --tools" >&2; exit 1; }
ifneq ($(FILES),)
	$(Q)clang-format --style=file $(if $(CHECK),--dry-run -Werror,-i) $$(git ls-files --cached --others --exclude-standard $(FILES))
else ifneq ($(CHECK),)
	$(Q)! git clang-format --diff --extensions c,h HEAD | grep '^[-+@d]'
else
	$(Q)git clang-format --force --extensions c,h HEAD
endif
tidy:                           ## clang-tidy (FILES="a.c b.c" picks), settings in .clang-tidy
	$(Q)command -v clang-tidy >/dev/null || { echo "clang-tidy is missing: ops/bootstrap --tools" >&2; exit 1; }
	$(Q)for f in $(call C_FILES,'core/*.c' 'proto/*.c' 'kvstore/*.c' 'engine/*.c' 'coordinator/*.c' 'workers/*.c' 'ops/*.c'); do \
	case $$f in *_avx2.c) isa="$(ISA_AVX2)";; *_plain.c) isa="$(ISA_FMA)";; core/err.c) isa=;; \
	*) isa="-include ops/tidy.h";; esac; echo "  TIDY  $$f"; \
	clang-tidy --quiet --warnings-as-errors='*' $$f -- -I. -I$(B) -D_GNU_SOURCE -DSLUICE_REV='""' $(PKG_CFLAGS) -std=c11 $$isa \
	2>/dev/null || bad=1; done; test -z "$$bad"
protocol: $(B)/ops/tools/protocol_page                 ## write docs/PROTOCOL.md from proto/messages.def
	$(Q)mkdir -p docs; $< > docs/PROTOCOL.md.new && mv docs/PROTOCOL.md.new docs/PROTOCOL.md && echo "  GEN   docs/PROTOCOL.md"

# ---- install.  install-files only copies: the test of it must not build (nor rebuild with other flags) what is being tested
SHARE   := $(DESTDIR)$(PREFIX)/share/sluice
MAN     := $(DESTDIR)$(PREFIX)/share/man
BASH_AT := $(DESTDIR)$(PREFIX)/share/bash-completion/completions
ZSH_AT  := $(DESTDIR)$(PREFIX)/share/zsh/site-functions
PAGES   := $(B)/man/stamp
$(PAGES): $(B)/sluice $(B)/ops/tools/manpages
	$(Q)rm -rf $(@D) && mkdir -p $(@D) && echo "  GEN   $(@D)" && $(B)/ops/tools/manpages $(@D)
	$(Q)$(B)/sluice completion bash > $(@D)/completion.bash && $(B)/sluice completion zsh > $(@D)/completion.zsh && touch $@
$(B)/tests/flow/test_install: | $(PAGES)
install: $(BINS) $(PAGES)       ## programs, models, configs, man pages and completion (PREFIX=/usr/local, DESTDIR=)
	+$(Q)$(MAKE) --no-print-directory install-files
install-files:
	$(Q)install -d $(DESTDIR)$(PREFIX)/bin $(SHARE) $(MAN)/man1 $(MAN)/man5
	$(Q)install -m 755 $(BINS) $(DESTDIR)$(PREFIX)/bin/
	$(Q)install -m 644 $(B)/man/*.1 $(MAN)/man1/ && install -m 644 $(B)/man/*.5 $(MAN)/man5/
	$(Q)install -D -m 644 $(B)/man/completion.bash $(BASH_AT)/sluice
	$(Q)install -D -m 644 $(B)/man/completion.zsh $(ZSH_AT)/_sluice
	$(Q)for f in $$(find models configs docs -type f) $(wildcard README.md ARCHITECTURE.md LICENSE); do \
	install -D -m 644 $$f $(SHARE)/$$f || exit 1; done
	$(Q)echo "installed under $(DESTDIR)$(PREFIX)"
uninstall:                      ## remove what install put there
	$(Q)rm -f $(BINS:$(B)/%=$(DESTDIR)$(PREFIX)/bin/%)
	$(Q)rm -f $(MAN)/man1/sluice.1 $(MAN)/man1/sluice-*.1 $(MAN)/man5/sluice.ini.5 $(BASH_AT)/sluice $(ZSH_AT)/_sluice
	$(Q)rm -rf $(SHARE)

clean:                          ## remove build/
	rm -rf build
help:                           ## this list
	$(Q)sed -n 's/^\([a-z][a-z-]*\):.*## /  \1\t/p' Makefile ops/make/targets.mk | sort | expand -t 16
