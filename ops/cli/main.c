#include "core/log.h"
#include "ops/cli/command.h"
#include "ops/cli/signals.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

/* The program `sluice`: reading the command line, help, and exit statuses. The commands are listed in commands.c, and what
 * one does is in its own file. */

static void print_table(FILE *out)
{
    fputs("sluice runs a large language model as a pipeline of processes.\n\nusage: sluice COMMAND [OPTION...]\n\n", out);
    for (size_t i = 0; i < commands_n; i++) fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].help);
    fputs("\nsluice COMMAND --help explains one; sluice --version says which build this is.\n"
          "To begin with: sluice run -p 'Question: Who are you?'\n", out);
}

static void print_help(const command *c, bool all)
{
    printf("sluice %s - %s\n\nusage: sluice %s%s%s\n\n", c->name, c->help, c->name, *c->usage ? " " : "", c->usage);
    settings_help(c->bit | (all ? CMD_RARE : 0), stdout);
    printf("\nexample: %s\n", c->example);
}

static int unknown(const char *name)
{
    const char *near = command_nearest(name);
    fprintf(stderr, "sluice: unknown command \"%.60s\"%s%s%s; sluice without words lists them\n", name,
            near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
    return err_exit_status(ERR_USAGE);
}

static err_code read_settings(settings *s, int argc, char **argv, err *e)
{
    log_level level;
    err_code rc = settings_argv(s, argc, argv, e);
    if (rc == ERR_OK && s->config && !s->help && !s->version) rc = settings_ini(s, s->config, e);
    if (rc == ERR_OK && s->log_level && log_level_parse(s->log_level, &level)) log_set_level(level);
    return rc;
}

static err_code run(const command *c, settings *s, err *e)
{
    if (s->help || s->help_all) return print_help(c, s->help_all), ERR_OK;
    if (s->version) return version_print(stdout), ERR_OK;
    return c->run(s, e);
}

static int status_of(const command *c, err_code rc, const err *e)
{
    int sig = signals_caught();
    if (rc != ERR_OK && !(sig == SIGINT && rc == ERR_CANCELLED)) fprintf(stderr, "sluice %s: %s\n", c->name, e->text);
    if (rc == ERR_USAGE) fprintf(stderr, "sluice %s --help lists the options\n", c->name);
    return sig && rc != ERR_OK ? 128 + sig : err_exit_status(rc);
}

static int run_command(const command *c, int argc, char **argv)
{
    settings s;
    err e = { 0 };
    settings_init(&s, c->bit);
    err_code rc = read_settings(&s, argc, argv, &e);
    if (rc == ERR_OK) {
        signals_install();
        rc = run(c, &s, &e);
    }
    settings_free(&s);
    return status_of(c, rc, &e);
}

/* A closed standard descriptor would become a socket of ours, and text would go there. In its place comes /dev/null, opened
 * the wrong way round: reading and writing fail as they should. */
static void hold_standard_descriptors(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd ? O_RDONLY : O_WRONLY) < 0) return;
}

/* `sluice help`, `sluice help run`, `sluice --help`, `sluice --version`, or nothing at all. */
static bool is_plain(int argc, char **argv, int *status)
{
    const char *w = argc > 1 ? argv[1] : "--help";
    bool help = !strcmp(w, "help") || !strcmp(w, "--help") || !strcmp(w, "-h");
    const command *c = help && argc > 2 ? command_find(argv[2]) : NULL;
    *status = 0;
    if (help && argc > 2 && !c) *status = unknown(argv[2]);
    else if (c) print_help(c, false);
    else if (help) print_table(stdout);
    else if (!strcmp(w, "--version") || !strcmp(w, "version")) version_print(stdout);
    else return false;
    return true;
}

int main(int argc, char **argv)
{
    int status;
    hold_standard_descriptors();
    log_role("sluice", false);
    if (is_plain(argc, argv, &status)) return status;
    const command *c = command_find(argv[1]);
    return c ? run_command(c, argc - 1, argv + 1) : unknown(argv[1]);
}
