#!/usr/bin/env python3
"""When the first token comes: exact, auxiliary alone, predict, hybrid and a peer, in turns; the lines of docs/kv-prediction.md.

usage: ops/bench/predict.py MODEL --aux AUX --profile MAPS [--peer DIR] [--prompts 512,2048] [--rounds 3] [--chunk 512] [--append FILE] [--bin build/release]

Two clusters of one stage: the model with its auxiliary, and the auxiliary (a file) by itself. Every round sends each prompt to each way, tokens
drawn anew, so that no rows are shared. T_aux is the auxiliary's own time for a prompt; `bound` is what no prediction can beat,
T_exact / (T_aux + one decode step). --append keeps a line a round in FILE and counts those that are there already, so that rounds can be
measured whenever the machine is quiet. The peer's time is llama-batched-bench's for the prompt and one token. Weights may be random: what
a prompt costs does not depend on what a model knows.
"""
import argparse, json, os, random, re, statistics, subprocess, sys, time
from cluster import Cluster, busy


def job(c, way, n, gen):
    """ms to the first token, ms for one of the others."""
    tokens = [random.randrange(300, 30000) for _ in range(n)]
    r, = c.batch([{"custom_id": "0", "tokens": tokens, "max_tokens": gen, "prefill": way, "ignore_eos": True}])
    if r["timings"]["prefill_mode"] != way:
        sys.exit(f"a prompt of {n} went by {r['timings']['prefill_mode']}, not {way}")
    return r["timings"]["ttft_ms"], 1e3 / r["timings"]["decode_tok_s"], (r.get("prediction") or {}).get("exact_from")


def peer(a, n):
    """ms for the prompt and one token; llama-batched-bench, since llama-bench reads every prompt twice."""
    words = [a.peer + "/llama-batched-bench", "-m", a.model, "-c", str(a.ctx), "-b", "2048", "-ub", "512", "-npp", str(n), "-ntg", "8", "-npl", "1", "-t", str(a.threads),
             *a.peer_flags.split()]
    p = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ, LD_LIBRARY_PATH=a.peer))
    rows = [l.split("|") for l in (p.stdout + p.stderr).splitlines() if re.match(r"^\|\s+\d+ \|", l)]
    if not rows:
        sys.exit(f"{' '.join(words)}: no figures\n{p.stderr[-2000:]}")
    return 1e3 * float(rows[-1][5]) + 1e3 * float(rows[-1][7]) / 8


def mine(roots):
    """Processor seconds of every process whose command line names a cluster's folder, and of our children."""
    t = os.times()
    total = t.children_user + t.children_system + t.user + t.system
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = open(f"/proc/{pid}/cmdline").read()
            if any(r in line for r in roots):
                total += sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            pass
    return total


def one_round(a, base, aux, n):
    roots, t = (base.tmp.name, aux.tmp.name), time.monotonic()
    all0, mine0 = busy(), mine(roots)
    r = {"prompt": n}
    r["exact"], r["step"], _ = job(base, "pipeline", n, a.gen)
    r["aux"], _, _ = job(aux, "pipeline", n, 1 if a.gen < 2 else 2)
    r["predict"], _, _ = job(base, "predict", n, 2)
    r["hybrid"], r["behind"], r["exact_from"] = job(base, "hybrid", n, a.gen)
    if a.peer:
        r["peer"] = peer(a, n)
    r["others"] = max(0.0, 100 * (busy() - all0 - mine(roots) + mine0) / ((time.monotonic() - t) * os.cpu_count()))
    print("#", json.dumps(r), file=sys.stderr, flush=True)
    return r


def summary(n, rounds):
    def mid(f):
        return statistics.median(f(r) for r in rounds)
    bound = mid(lambda r: r["exact"] / (r["aux"] + r["step"]))
    faster = mid(lambda r: r["exact"] / r["predict"])
    peers = [r["peer"] / r["predict"] for r in rounds if "peer" in r]
    cells = [f"{n} ({len(rounds)} rounds)"] + [f"{mid(lambda r: r[k]):.0f}" for k in ("exact", "aux", "predict", "hybrid", "step")]
    cells += [f"{bound:.2f}", f"{faster:.2f}", f"{100 * mid(lambda r: r['exact'] / r['predict'] / (r['exact'] / (r['aux'] + r['step']))):.0f} %",
              f"{mid(lambda r: r['hybrid'] / r['predict']):.2f}", f"{100 * mid(lambda r: r['step'] / r['behind']):.0f} %"]
    cells += [f"{statistics.median(peers):.1f}" if peers else "-", f"{mid(lambda r: r['others']):.0f} %"]
    return "| " + " | ".join(cells) + " |"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--aux", required=True)
    p.add_argument("--profile", required=True)
    p.add_argument("--peer", default="", help="folder of its llama-batched-bench")
    p.add_argument("--peer-flags", default="-fa", help="newer ones: -fa on")
    p.add_argument("--bin", default="build/release")
    p.add_argument("--append", default="")
    p.add_argument("--prompts", default="512,2048")
    p.add_argument("--newest", type=int, default=32, help="rows at the prompt's end that the model computes itself")
    for name, value in (("rounds", 3), ("gen", 96), ("chunk", 512), ("threads", len(os.sched_getaffinity(0)))):
        p.add_argument("--" + name, type=int, default=value)
    a = p.parse_args()
    prompts = [int(x) for x in a.prompts.split(",")]
    a.ctx = max(prompts) + 256
    lines = [json.loads(l) for l in open(a.append)] if a.append and os.path.exists(a.append) else []
    common = ("--stages", "1", "-t", str(a.threads), "--ctx", str(a.ctx), "--chunk", str(a.chunk))
    predicts = ("--aux", a.aux, "--profile", a.profile, "--predict-newest", str(a.newest))
    with Cluster(a.bin, "-m", a.model, *predicts, *common) as base, Cluster(a.bin, "-m", a.aux, *common) as aux:
        for c, way in ((base, "pipeline"), (aux, "pipeline"), (base, "predict")):
            job(c, way, max(prompts), 2)    # nobody pages in weights, or asks for memory, in a round
        for _ in range(a.rounds):
            for n in prompts:
                lines.append(one_round(a, base, aux, n))
                if a.append:
                    with open(a.append, "a") as f:
                        f.write(json.dumps(lines[-1]) + "\n")
    print("| prompt | exact ms | auxiliary alone | predict | hybrid | decode step | bound | speed-up | of the bound | hybrid / predict | decode rate while"
          " refreshing | sooner than the peer | others |\n|" + "---:|" * 13)
    for n in sorted({r["prompt"] for r in lines}):
        print(summary(n, [r for r in lines if r["prompt"] == n]))


main()
