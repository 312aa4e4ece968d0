#include "core/log.h"
#include "ops/cli/command.h"
#include "ops/cli/signals.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

/* The program `sluice`: the table of commands, help, and exit statuses. What a command does is in its own file. */

typedef struct {
    const char *name;
    uint32_t bit;            /* the options it takes */
    err_code (*run)(settings *s, err *e);
    const char *help, *usage, *example;
} command;

static const command commands[] = {
    { "run", CMD_RUN, cmd_run, "answer one prompt; starts a cluster of its own when none is up", "[-m MODEL] -p TEXT | -f FILE | -",
      "sluice run -p 'Once upon a time' -n 64 --stages 2" },
    { "up", CMD_UP, cmd_up, "start a cluster that stays", "[-m MODEL] [--stages N] [-c CONF]",
      "sluice up -m model.gguf --stages 2 --rag corpus.db" },
    { "down", CMD_DOWN, cmd_down, "stop it, after the jobs that run", "[--now]", "sluice down" },
    { "status", CMD_STATUS, cmd_status, "the cluster's model, stages and load", "", "sluice status --json" },
    { "worker", CMD_WORKER, cmd_worker, "join a cluster with a stage of this machine", "--connect ENDPOINT -m FILE",
      "sluice worker --connect tcp://127.0.0.1:7711 -m model.gguf" },
    { "submit", CMD_SUBMIT, cmd_submit, "send a job, or a file of jobs, to the cluster",
      "-p TEXT | -f FILE | - | --batch IN.jsonl [-o OUT.jsonl]", "sluice submit --batch jobs.jsonl -o answers.jsonl" },
    { "jobs", CMD_JOBS, cmd_jobs, "list the cluster's jobs", "", "sluice jobs" },
    { "result", CMD_RESULT, cmd_result, "text of a job, as far as it is, and what follows", "ID", "sluice result 17" },
    { "cancel", CMD_CANCEL, cmd_cancel, "stop a job", "ID", "sluice cancel 17" },
    { "tokenize", CMD_TOKENIZE, cmd_tokenize, "text to token ids", "[-m MODEL] -p TEXT | -f FILE | -",
      "sluice tokenize -p 'Hello there' --pieces" },
    { "detokenize", CMD_DETOKENIZE, cmd_detokenize, "token ids to text", "[-m MODEL] -t ID,ID,... | ID ... | -f FILE | -",
      "sluice detokenize 411 29 1702" },
    { "eval", CMD_EVAL, cmd_eval, "measure a model: logits, ppl (perplexity), qa (answers)",
      "logits -t ID,ID,... -o OUT.f32\n       sluice eval ppl -f TEXT [-c CTX]\n       sluice eval qa -f FILE.jsonl [--rag CORPUS]",
      "sluice eval ppl -m model.gguf -f text.txt -c 256" },
    { "index", CMD_INDEX, cmd_index, "make a corpus file of a folder of texts", "FOLDER -o CORPUS",
      "sluice index notes/ -o notes.db" },
    { "model", CMD_MODEL, cmd_model, "look into a model file; make one of random weights",
      "info FILE | random --shape NAME [--quant TYPE] -o FILE", "sluice model info model.gguf" },
    { "config", CMD_CONFIG, cmd_config, "print every configuration key with its reason", "", "sluice config > sluice.ini" },
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_table(FILE *out)
{
    fputs("sluice runs a large language model as a pipeline of processes.\n\nusage: sluice COMMAND [OPTION...]\n\n", out);
    for (size_t i = 0; i < N_COMMANDS; i++) fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].help);
    fputs("\nsluice COMMAND --help explains one; sluice --version says which build this is.\n"
          "To begin with: sluice run -p 'Question: Who are you?'\n", out);
}

static void print_help(const command *c, bool all)
{
    printf("sluice %s - %s\n\nusage: sluice %s%s%s\n\n", c->name, c->help, c->name, *c->usage ? " " : "", c->usage);
    settings_help(c->bit | (all ? CMD_RARE : 0), stdout);
    printf("\nexample: %s\n", c->example);
}

static const command *find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    const char *near = nearest_word(name, names, N_COMMANDS);
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
    const command *c = help && argc > 2 ? find(argv[2]) : NULL;
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
    const command *c = find(argv[1]);
    return c ? run_command(c, argc - 1, argv + 1) : unknown(argv[1]);
}
