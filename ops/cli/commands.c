#include "ops/cli/command.h"
#include <string.h>

/* Owns the list of commands: names, what each is for, and the words of its pages. It runs none. */

#define MODELS "The model is a GGUF file, the bundled one when no file is named."

const command commands[] = {
    { "run", CMD_RUN, cmd_run, "answer one prompt; starts a cluster of its own when none is up",
      "[-m MODEL] [--chat] -p TEXT | -f FILE | -", "",
      "sluice run -p 'Once upon a time' -n 64 --stages 2",
      "The text goes to standard output as it comes, a summary of the stages, tokens and times to standard error; with --json one "
      "object goes to standard output at the end.\n"
      "The cluster that is up is used, unless an option shapes a cluster (a model, stages, a corpus): then one is started for this "
      "prompt and leaves nothing behind. " MODELS "\n"
      "With --chat the prompt is a turn of a conversation; without a prompt, at a terminal, one talks: Ctrl-C stops an answer, Ctrl-D "
      "leaves, /help lists more.\n"
      "With --prompt-cache the KV of the prompt is kept in a file, and what the next prompt has in common with it is not computed "
      "again; the text does not change. A file of another model, format or path, or a damaged one, is said to be and written anew; a "
      "file that is no prompt cache is left alone.\n"
      "The same prompt, options and seed give the same tokens, whatever the number of stages or threads." },
    { "up", CMD_UP, cmd_up, "start a cluster that stays", "[-m MODEL] [--stages N] [-c CONF]", "",
      "sluice up -m model.gguf --stages 2 --rag corpus.db",
      "Returns when every stage is ready. A second cluster on one host needs another --dir. " MODELS },
    { "down", CMD_DOWN, cmd_down, "stop it, after the jobs that run", "[--now]", "", "sluice down",
      "Waits until the coordinator is gone. A signal ends the wait and not the cluster." },
    { "status", CMD_STATUS, cmd_status, "the cluster's model, stages and load", "", "", "sluice status --json",
      "Stages are listed with their layers, cores, pids and memory." },
    { "worker", CMD_WORKER, cmd_worker, "join a cluster with a stage of this machine", "--connect ENDPOINT -m FILE", "",
      "sluice worker --connect tcp://127.0.0.1:7711 -m model.gguf",
      "The cluster was started with --listen and --join. The worker has a model file of its own, which must have the same contents "
      "as the coordinator's; weights are not sent over the wire." },
    { "submit", CMD_SUBMIT, cmd_submit, "send a job, or a file of jobs, to the cluster",
      "-p TEXT | -f FILE | - | --batch IN.jsonl [-o OUT.jsonl]", "", "sluice submit --batch jobs.jsonl -o answers.jsonl",
      "A batch file has one JSON object a line, with custom_id and prompt, or in the shape of OpenAI's batch files. Each finished "
      "job is one line of the output file, in the order of completion.\n"
      "When the output file exists the batch goes on where it stopped: jobs that have an answer there are passed over, jobs that "
      "failed are tried again, and a line that was torn by a crash is taken away. Delete the file to begin anew. A custom_id that "
      "stands on two lines of the input is refused before anything is sent.\n"
      "The exit status is 11 when jobs failed and all others are done; their errors are in the output file." },
    { "jobs", CMD_JOBS, cmd_jobs, "list the cluster's jobs", "", "", "sluice jobs", "Finished jobs stay in the list for a while." },
    { "result", CMD_RESULT, cmd_result, "text of a job, as far as it is, and what follows", "ID [--from N] [--no-follow]", "", "sluice result 17",
      "Waits for the end of the job, unless --no-follow is given. A signal ends the wait and not the job. --from leaves out tokens that "
      "are known already, so that a stream can go on where it broke. Fetching changes nothing, and does not disturb other clients of the job." },
    { "cancel", CMD_CANCEL, cmd_cancel, "stop a job", "ID", "", "sluice cancel 17", "A job that is finished stays as it is." },
    { "replay", CMD_REPLAY, cmd_replay, "run a job that is over again, from its log, and compare", "ID", "", "sluice replay 17",
      "Says that tokens and log-probabilities are the same, bit for bit, or which is the first that is not; a job that failed or was "
      "cancelled is compared as far as it came. The log of the job is printed too: what retrieval found, the arithmetic, what came from a "
      "prompt cache.\n"
      "The exit status is 0 when all is the same and 15 when something differs; 13 when the job is not over, or when this cluster cannot "
      "compute as the log says (other rows, a smaller context); 14 when there is no such job." },
    { "tokenize", CMD_TOKENIZE, cmd_tokenize, "text to token ids", "[-m MODEL] -p TEXT | -f FILE | -", "",
      "sluice tokenize -p 'Hello there' --pieces", MODELS },
    { "detokenize", CMD_DETOKENIZE, cmd_detokenize, "token ids to text", "[-m MODEL] -t ID,ID,... | ID ... | -f FILE | -", "",
      "sluice detokenize 411 29 1702", MODELS },
    { "eval", CMD_EVAL, cmd_eval, "measure a model: logits, perplexity, answers, prediction, routing",
      "logits -t ID,ID,... -o OUT.f32\n       sluice eval ppl -f TEXT [-c CTX]\n       sluice eval qa -f FILE.jsonl [--rag CORPUS]\n       sluice eval predict -f TEXT --aux MODEL [-c CTX] [-o FILE.svg]\n       sluice eval route [RULE...] -f TEXT [--questions FILE] [-o MAP.svg]\n       sluice eval back-off RULE -f TEXT\n       sluice eval masks [RULE...] -f TEXT [--questions FILE] [--lora FILE]\n       sluice eval kv --kv A,B,... [-f TEXT] [-o PREFIX]",
      "logits|ppl|qa|predict|route|back-off|masks|kv", "sluice eval ppl -m model.gguf -f text.txt -c 256",
      "logits writes one row of 32-bit floats for each token. ppl is the perplexity of a text over windows without overlap, as "
      "llama-perplexity defines it. qa counts right answers to questions with a known answer, one JSON object a line. "
      "predict runs prompts exactly and by KV prediction, in this process, and says how far what follows goes apart (KL by distance, first "
      "token, attention by layer) and how long each takes; -o draws it. route measures what leaving out layers costs (KL, perplexity, answers) and brings, for each --skip RULE; back-off, which alarm sees best that its sessions go wrong. masks holds rules against chance and against an oracle on many texts, in this process, with paired intervals.\n"
      "kv holds KV policies against the exact cache, in this process. Of a text: windows of CTX tokens are compressed and the next 256 "
      "tokens scored; mean and 99th percentile of KL(exact || policy), equal first tokens, perplexity. Of generated needles: right "
      "answers when the question is in the compressed prompt and when it comes after it; n/a where the exact cache is right in less than "
      "80 of 100. Of blocks of random tokens: how much of a copy is predicted, near and far. Bytes are all there are: data, scales, "
      "positions, index, scores. -o writes PREFIX.md, .csv, .json and charts PREFIX-kl.svg and PREFIX-needles.svg; rows read: of "
      "those there were in layers with a choice. The policy named oracle draws rows but keeps those that an answer needs, NAME+oracle is "
      "NAME on prompts that mark these rows as never to go." },
    { "bench", CMD_BENCH, cmd_bench, "measure speed: prompts, tokens, batches, a served load, memory",
      "[pp/tg] [-p N,...] [-n N,...] [-d N,...] [-r N]\n       sluice bench batch [-p N,...] [-n N,...] [-b N,...]\n"
      "       sluice bench serve [--clients N | --rate X] [--requests N]\n       sluice bench footprint [--idle SECONDS]",
      "pp/tg|batch|serve|footprint", "sluice bench -m model.gguf --stages 1 -p 512 -n 128",
      "The load goes the way of any job: prompts of random tokens are submitted to a cluster, and times are those at which tokens "
      "arrive at the client. A cluster is started for the measurement, unless one is up and no option shapes a cluster.\n"
      "pp/tg: one prompt of -p tokens, and generating -n tokens, -r times each: mean and standard deviation; with -d that many tokens "
      "stand in front. A prompt at a depth is the difference of two prompts.\n"
      "batch: -b sessions at once, each with a prompt of -p tokens: T_PP until all prompts are done; S_TG is the rate while all of them "
      "generate, over -n tokens of each and half a second at least.\n"
      "serve: a closed loop of --clients, or with --rate requests at random times; time to first token (TTFT), time per output token "
      "(TPOT), time between tokens (ITL), and what the stages did meanwhile.\n"
      "footprint: time until the cluster is ready, processor time while it is idle, memory of all its processes (proportional set "
      "size) beside weights and KV." },
    { "plan", CMD_PLAN, cmd_plan, "measure layers, split them over stages, foretell a cluster",
      "[-m MODEL] [--stages N | --nodes FILE] [-o PLAN]\n       sluice plan [-m MODEL | --costs FILE] --simulate CLUSTER.ini", "",
      "sluice plan -m model.gguf --stages 4 -o plan.json",
      "Layers, embedding and head are run for different numbers of rows and threads, alone and while all cores are busy, and messages "
      "are sent round. The layers are split so that the slowest stage is as fast as can be; where fewer stages would be faster, it says "
      "so. sluice up --plan takes what -o wrote.\n"
      "--simulate runs a load through a cluster described in a file, event by event, with the coordinator's own schedule. What it prints "
      "is foretold and not measured.\n"
      "CLUSTER.ini has a section [load] (clients or rate, requests, prompt, generate, chunk, in_flight), a section [link] (latency_us, "
      "bandwidth_mbs) and for each kind of node [node NAME] (count, stages, threads, cores, speed, memory_mb, groups), in the order of "
      "the pipeline." },
    { "index", CMD_INDEX, cmd_index, "make a corpus file of a folder of texts", "FOLDER -o CORPUS", "DIR",
      "sluice index notes/ -o notes.db", "The corpus file is what --rag takes." },
    { "model", CMD_MODEL, cmd_model, "look into a model file; make one of another, or of random weights",
      "info FILE\n       sluice model random --shape NAME [--quant TYPE] -o FILE\n       sluice model quantize IN OUT TYPE\n"
      "       sluice model split IN OUTPREFIX --max-size MB\n       sluice model merge FIRST OUT\n       sluice model pack [FILE]\n       sluice model cache [--clear]",
      "info|random|quantize|split|merge", "sluice model info model.gguf",
      "info prints metadata and tensors; random makes a file of a real shape for measurements; quantize stores the weights in "
      "another type; split and merge part a file and put its parts together." },
    { "calibrate", CMD_CALIBRATE, cmd_calibrate, "find out about a model what its profile says",
      "[-m MODEL] -f TEXT [-o PROFILE] [--only SECTION,...]", "", "sluice calibrate -m model.gguf -f text.txt --only kv",
      "The model reads the text, and what passes through its layers is measured: which heads look things up, how values are spread, what "
      "a layer is worth. The profile (NAME.profile.gguf beside the model) belongs to this model file and this arithmetic.\n"
      "--only makes some sections anew and leaves the others in the file as they are. The text should be like what the model will read, "
      "and must not be what it is measured with afterwards. 30,000 tokens are plenty; --sample takes that many from the front.\n"
      "predict learns KV prediction (--prefill predict) from --aux MODEL: a small model of the same vocabulary, or layers:0,2,4,... of the "
      "model itself. Each auxiliary model wants a profile of its own (-o, --profile).\n"
      "A run that is stopped leaves PROFILE.partial, and the same command goes on from there. The same model, text and options give the same file." },
    { "profile", CMD_PROFILE, cmd_profile, "look into a model's profile", "info [FILE] [-m MODEL]\n       sluice profile take ROUTERS.json [-m MODEL] [-o PROFILE]", "info|take", "sluice profile info model.profile.gguf",
      "The profile is what sluice calibrate found out about a model: sections with their versions, the digests of the model and of the "
      "auxiliary model they belong to, tensors by layer. Without FILE it is the one beside the model (NAME.profile.gguf); with -m it is "
      "refused when it is another model's.\n"
      "take puts routers that ops/train/first.py has trained into section first, for --skip first:4,routers=trained." },
    { "keygen", CMD_KEYGEN, cmd_keygen, "make a pair of keys for a host or a person", "-o FILE [--force]", "", "sluice keygen -o host.key",
      "FILE gets the secret key (mode 0600), FILE.pub the public one, which is printed, too. The public key goes into the list of the "
      "coordinator (--allow: a line `stage pk_... name`, or client), the coordinator's own to its workers and clients (--server-key).\n"
      "With $CREDENTIALS_DIRECTORY (systemd) the credentials sluice.key, sluice.server.pub and sluice.allow stand in for the options." },
    { "config", CMD_CONFIG, cmd_config, "print every configuration key with its reason", "", "", "sluice config > sluice.ini",
      "The output is a configuration file with every key commented out; sluice.ini(5) is the same as a page." },
    { "completion", CMD_COMPLETION, cmd_completion, "print completion for a shell", "bash | zsh", "bash|zsh",
      "sluice completion bash >> ~/.bash_completion",
      "For zsh, write the output to a file named _sluice in a folder of $fpath. make install puts both in place." },
};
const size_t commands_n = sizeof commands / sizeof commands[0];

const command *command_find(const char *name)
{
    for (size_t i = 0; i < commands_n; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

const char *command_nearest(const char *name)
{
    const char *names[sizeof commands / sizeof commands[0]];
    for (size_t i = 0; i < commands_n; i++) names[i] = commands[i].name;
    return nearest_word(name, names, commands_n);
}
