#ifndef TESTS_SUPPORT_PROGRAMS_H
#define TESTS_SUPPORT_PROGRAMS_H
/* The real programs as processes: run them, start them, look at them from outside, and know that none is left. Every
 * process that a test starts, and whatever those start, carries a mark in its environment; run directories that nobody
 * named land in a place of the test's own. One thread. Refuses to end a process without the mark. */
#include "tests/support.h"
#include <jansson.h>
#include <sys/types.h>

/* First thing in a test: the mark, the place (and XDG_RUNTIME_DIR and TMPDIR there). At exit what is left is killed. */
void programs_begin(void);
/* The place: a folder in support_tmpdir(). Everything in it was made by a program. */
const char *programs_place(void);
/* A path in support_tmpdir(), not in the place. Valid until seven more calls. */
const char *programs_file(const char *name);
/* Processes with the mark that live (zombies do not); "pid words" of each is appended to who (or NULL). */
uint32_t programs_alive(text *who);
/* Within so many seconds no process with the mark lives and the place is empty. Else prints what is left. */
bool programs_gone(double seconds);
/* The same for processes only. */
bool programs_ended(double seconds);
/* How much longer things take in this build: 1, or more under a sanitizer. */
double programs_patience(void);

enum { PROGRAM_INSANE = -2 };      /* status: a sanitizer had something to say on stderr */
typedef struct { int status; text out, errs; } ran;

/* argv of `sluice` with these words. */
#define SLUICE(...) ((const char *const[]){ support_bin("sluice"), __VA_ARGS__, NULL })
/* Run to the end, `seconds` (times patience) at most. Prints stderr when the status is not `want` (-1: any). */
ran program_run(int want, double seconds, const char *in, const char *const argv[]);
void ran_free(ran *r);
/* Never NULL. */
const char *ran_out(const ran *r);
const char *ran_errs(const ran *r);
/* Standard output as one JSON value, a new reference; NULL (and words) when it is none. Frees *r. */
json_t *ran_json(ran *r);

/* In the background, outputs to files. */
typedef struct { pid_t pid; int status; bool over; char out[128], errs[128]; } program;
bool program_start(program *p, const char *name, const char *const argv[]);
/* Wait: exit status, 128 + signal, PROGRAM_INSANE, or SUPPORT_TIMEOUT while it still runs. Prints stderr when it is not `want`. */
int program_wait(program *p, int want, double seconds);
/* Until the file has a byte. */
bool program_has_output(const program *p, double seconds);
/* Its stderr so far; free with text_free. */
text program_errs(const program *p);

/* A cluster that stays: `sluice up --dir place/NAME --json OPTIONS`. */
typedef struct { char dir[128], log[160]; json_t *status; pid_t pid; } standing;
bool standing_up(standing *c, const char *name, const char *const options[]);
/* `sluice status --json`; a new reference, NULL with words. */
json_t *standing_status(const standing *c);
/* A number of it, by its path. */
int64_t standing_number(const standing *c, const char *path);
/* Print the last lines of its log. */
void standing_print_log(const standing *c);
/* `sluice down`; false when it fails, when a process or the run directory's files stay, or when its log has a
 * sanitizer's words. */
bool standing_down(standing *c);

/* After `down`: nothing but the journal of jobs is in a run directory; both are removed. */
bool run_dir_clean(const char *dir);

/* Words of a sanitizer in a text, or NULL. */
const char *sanitizer_words(const char *s);
/* A port of 127.0.0.1 that was free a moment ago. 0: none. */
uint16_t port_free(void);
/* Resident set of a process, KB; 0 when it cannot be read. */
uint64_t process_rss_kb(pid_t pid);
/* A number at a dotted path ("pump.decode_rows", "stages.0.pid"); -1 when it is not there. */
int64_t json_number_at(const json_t *o, const char *path);
/* A string there, or "". */
const char *json_string_at(const json_t *o, const char *path);
#endif
