#ifndef CLI_SIGNALS_H
#define CLI_SIGNALS_H
/* SIGINT, SIGTERM and SIGHUP only set a flag; whoever waits looks at it. SIGPIPE is ignored (a closed pipe is a write
 * error like any other), so that every way out passes the clean-up. */
void signals_install(void);
/* The signal that came (the first one), or 0. Any thread. */
int signals_caught(void);
/* How many came: a second one means that the user has lost patience. */
int signals_count(void);
/* As if none had come: a Ctrl-C that only stopped an answer. */
void signals_forget(void);
/* Between fork and exec: the child starts with defaults. */
void signals_reset(void);
#endif
