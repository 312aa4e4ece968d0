#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H
/* What tests and benches share: where things are, seeded data, comparing, a folder that goes away, running a program.
 * Knows nothing of the product above core/. Facts that belong in the test log are printed as lines "# ...". */
#include "core/buf.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Paths. Each is valid until seven more calls on the same thread. */
/* A program of this build, e.g. "sluice". */
const char *support_bin(const char *name);
/* A file of the source tree, e.g. "models/sluice-tiny-Q8_0.gguf". */
const char *support_root(const char *name);
/* A file of the shared data, e.g. "data/models/stories260K-f32.gguf": under $SLUICE_SHARED, or ../shared beside the tree.
 * NULL when it is not there. */
const char *support_shared(const char *name);
/* The same for a test, which is skipped, with a clear word, where the file is absent. Needs criterion.h. */
#define SHARED_OR_SKIP(path, name) \
    const char *path = support_shared(name); \
    if (!path) cr_skip_test("no shared data: %s is absent (SLUICE_SHARED)", (name))

/* Seed of this run: $TEST_SEED, otherwise a new one; printed as "# seed N (TEST_SEED)" when first asked for. */
uint64_t support_seed(void);
/* Item i is a function of (seed, i): uniform in [lo, hi). */
void support_fill(float *x, size_t n, uint64_t seed, float lo, float hi);
void support_fill_bytes(void *p, size_t n, uint64_t seed);
/* Uniform in 0..below-1; below > 0. */
uint64_t support_draw(uint64_t seed, uint64_t index, uint64_t below);

/* Bit for bit. Prints index, values and bits of the first difference, and how many there are. */
bool support_same(const float *got, const float *want, size_t n, const char *what);
/* |got - want| <= abs + rel * |want| everywhere, and neither is NaN. Prints the first item that is not, and the worst. */
bool support_near(const float *got, const float *want, size_t n, double abs, double rel, const char *what);

/* A new folder under /tmp, removed with all it holds when this process exits. One a process; NULL when it cannot be made. */
const char *support_tmpdir(void);
/* Write a file; false when that fails. */
bool support_write(const char *path, const void *bytes, size_t n);

/* Run a program in a process group of its own (argv[0]: its path, or a name looked up in PATH; NULL ends argv), write `in`
 * (NULL: nothing) to its standard input, append what it writes to *out and *errs (NULL: dropped). After `seconds` the
 * whole group is killed. *status: exit status, 128 + signal, or SUPPORT_TIMEOUT. false: it could not be started. What is
 * still open a second after the program's end (a cluster that stays up holds our pipe) is no longer read. */
enum { SUPPORT_TIMEOUT = -1 };
bool support_run(const char *const argv[], const char *in, double seconds, int *status, text *out, text *errs);
#endif
