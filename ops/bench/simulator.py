#!/usr/bin/env python3
"""How near the simulator comes: for 1, 2 and 4 stages on this machine, costs are measured, the same load is served by a real
cluster and simulated, again and again in turn; the medians of tokens a second are compared.

usage: ops/bench/simulator.py MODEL [--bin build/release] [--runs 5] [--clients 8] [--prompt 64] [--gen 32] [--requests 24]
"""
import argparse, json, os, statistics, subprocess, tempfile


def sluice(a, *words):
    return json.loads(subprocess.run([a.bin + "/sluice", *words, "--json"], check=True, stdout=subprocess.PIPE).stdout)


def shape(n, cpus):
    return n, max(1, cpus // n)


def cluster_ini(path, a, stages, threads, cpus):
    with open(path, "w") as f:
        f.write(f"[load]\nclients = {a.clients}\nrequests = {a.requests}\nprompt = {a.prompt}\ngenerate = {a.gen}\nchunk = {a.chunk}\n"
                f"[node here]\nstages = {stages}\nthreads = {threads}\ncores = {cpus}\n")


def once(a, tmp, stages, cpus):
    """One measurement of the costs, the cluster and the simulation. Costs are measured before and after the cluster."""
    n, threads = shape(stages, cpus)
    ini, out = f"{tmp}/{n}.ini", f"{tmp}/{n}.json"
    cluster_ini(ini, a, n, threads, cpus)
    first = sluice(a, "plan", "-m", a.model, "--simulate", ini, "-o", out)
    served = sluice(a, "bench", "serve", "-m", a.model, "--stages", str(n), "-t", str(threads), "--plan", out, "-p", str(a.prompt), "-n", str(a.gen),
                    "--clients", str(a.clients), "--requests", str(a.requests), "--chunk", str(a.chunk))
    again = sluice(a, "plan", "-m", a.model, "--simulate", ini)
    foretold = [x["simulated"] for x in (first, again)]
    ttft = next(r for r in served["rows"] if r["ms"] == "TTFT")
    return {"measured": served["more"]["summary"][0]["output t/s"], "foretold": statistics.mean(x["output t/s"] for x in foretold),
            "ttft": ttft["median"], "ttft foretold": statistics.mean(x["TTFT ms"]["median"] for x in foretold)}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--bin", default="build/release")
    p.add_argument("--stages", default="1,2,4")
    for name, value in (("runs", 5), ("clients", 8), ("prompt", 64), ("gen", 32), ("requests", 24), ("chunk", 64)):
        p.add_argument("--" + name, type=int, default=value)
    a = p.parse_args()
    cpus, counts = len(os.sched_getaffinity(0)), [int(n) for n in a.stages.split(",")]
    runs = {n: [] for n in counts}
    with tempfile.TemporaryDirectory() as tmp:
        for _ in range(a.runs):
            for n in counts:
                runs[n].append(once(a, tmp, n, cpus))
                print("#", n, {k: round(v, 2) for k, v in runs[n][-1].items()}, flush=True)
    print("| stages | threads | measured t/s | simulated t/s | off | TTFT ms | simulated |\n|---:|---:|---:|---:|---:|---:|---:|")
    for n in counts:
        m = {k: statistics.median(r[k] for r in runs[n]) for k in runs[n][0]}
        off = statistics.median(r["foretold"] / r["measured"] - 1 for r in runs[n])
        print(f"| {n} | {shape(n, cpus)[1]} | {m['measured']:.1f} | {m['foretold']:.1f} | {100 * off:+.1f} % | {m['ttft']:.0f} | {m['ttft foretold']:.0f} |")


main()
