#!/usr/bin/env python3
"""Ours and a peer in turn on this machine: medians and ratios, the lines of docs/performance.md.

usage: ops/bench/compare.py MODEL.gguf ... --peer DIR [--bin build/release] [--runs 5] [--calm 10] [--only decode,prompt,bf16,batch,pipeline,depth]

DIR has the peer's llama-bench, llama-batched-bench and, for `pipeline`, rpc-server. Every round measures ours, then the peer's,
for each line, so that whatever else the machine does meets both. Teams of threads suffer more from others than single ones, and
spinning ones most: so the part of all processor time that went to others meanwhile is printed with each line, and --calm PERCENT
repeats a pair until it is below (`depth` does not repeat). A line measured in a crowd says little. A line is skipped, and said to be, when a program is missing.
"""
import argparse, json, os, re, resource, signal, socket, statistics, subprocess, sys, tempfile, time

BATCH = 16


def run(words, strict=True):
    p = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if p.returncode and strict:
        sys.exit(f"{' '.join(words)}: status {p.returncode}\n{p.stderr[-2000:]}")
    return p


DEPTHS = [2048, 8192, 16384]
DEPTH_PAIRS = [("f16", "f16"), ("q8_0", "q8_0"), ("q4_0+h", "q4_0"), ("kivi2", "q4_0"), ("tidal", "f16")]    # ours, and the peer's nearest


class Peer:
    def __init__(self, a):
        self.source, self.made, self.wrap = a.peer_source, None, a.wrap.split()
        self.dir, self.threads, self.extra, self.batch_flags = a.peer, a.threads, a.peer_flags.split(), a.peer_batch_flags.split()

    def has(self, name):
        return os.access(os.path.join(self.dir, name), os.X_OK)

    def single(self, model, pp, tg, more=()):    # repacked weights cannot be sent to its servers: it aborts
        extra = ["-fa", "1"] if more else self.extra
        words = [f"{self.dir}/llama-bench", "-m", model, "-p", str(pp), "-n", str(tg), "-t", str(self.threads), "-r", "1", "-o", "json", *extra, *more]
        p = run(words, strict=not more)    # with servers it may crash when it has said everything and ends
        found = re.search(r'"avg_ts": ([0-9.]+)', p.stdout)
        if not found:
            sys.exit(f"{' '.join(words)}: no figures\n{p.stderr[-2000:]}")
        return float(found[1])

    def batch(self, model, b, more=()):
        words = [f"{self.dir}/llama-batched-bench", "-m", model, "-c", "4096", "-b", "2048", "-ub", "512", "-npp", "64", "-ntg", "32", "-npl", str(b),
                 "-t", str(self.threads), *self.batch_flags, *(["-rtr"] if "-rtr" in self.extra and not more else []), *(["--rpc", *more[1:]] if more else [])]
        p = run(words, strict=not more)
        rows = [l for l in (p.stdout + p.stderr).splitlines() if re.match(r"^\|\s+\d+ \|", l)]
        return float(rows[-1].split("|")[8])


    def deep(self, model, kv, gen, depths):
        """Tokens a second by depth: peer_depth.c, built once against the peer's headers and libraries."""
        if not self.made:
            here, lib = os.path.dirname(os.path.abspath(__file__)), os.path.abspath(self.dir)
            self.made = tempfile.TemporaryDirectory()
            run(["gcc", "-O2", f"-I{self.source}/include", f"-I{self.source}/ggml/include", f"{here}/peer_depth.c", "-o", f"{self.made.name}/peer_depth",
                 f"-L{lib}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{lib}"])
        p = run([*self.wrap, f"{self.made.name}/peer_depth", model, kv, str(self.threads), str(gen), *map(str, depths)])
        return [float(l.split()[1]) for l in p.stdout.splitlines()]


class Ours:
    def __init__(self, a):
        self.bin, self.threads, self.flags, self.wrap = a.bin, a.threads, a.flags.split(), a.wrap.split()

    def bench(self, *words):
        return json.loads(run([*self.wrap, f"{self.bin}/sluice", "bench", *words, *self.flags, "--json"]).stdout)["rows"]

    def single(self, model, pp, tg, stages=1, threads=0, more=()):
        rows = self.bench("-m", model, "--stages", str(stages), "-t", str(threads or self.threads), "-p", str(pp), "-n", str(tg), "-r", "1", *more)
        return rows[0]["t/s"]

    def deep(self, model, kv, gen, depths):
        rows = self.bench("-m", model, "--stages", "1", "-t", str(self.threads), "-p", "0", "-n", str(gen), "-d", ",".join(map(str, depths)), "-r", "1",
                          "--fill", "random", "--no-warmup", "--ctx", str(max(depths) + gen + 2), "--kv", kv)
        return [r["t/s"] for r in rows]

    def batch(self, model, b, stages=1, threads=0):
        rows = self.bench("batch", "-m", model, "--stages", str(stages), "-t", str(threads or self.threads), "-p", "64", "-n", "32", "-b", str(b))
        return rows[0]["S_TG t/s"]


def wait_for(port):
    for _ in range(300):
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nobody listens on port {port}")


class Rpc:
    """Two of the peer's servers with one thread each, as two machines would run them."""

    def __init__(self, peer):
        self.peer, self.servers, self.flags = peer, [], []

    def __enter__(self):
        ports = []
        for _ in range(2):
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                ports.append(s.getsockname()[1])
        env = dict(os.environ, OMP_NUM_THREADS="1")
        for i, port in enumerate(ports):
            words = ["taskset", "-c", str(i % os.cpu_count()), f"{self.peer.dir}/rpc-server", "-H", "127.0.0.1", "-p", str(port)]
            self.servers.append(subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for port in ports:
            wait_for(port)
        self.flags = ["-rpc", ",".join(f"127.0.0.1:{p}" for p in ports), "-ngl", "99"]
        return self

    def __exit__(self, *_):
        for s in self.servers:
            s.send_signal(signal.SIGTERM)
            s.wait()


def busy():
    """Processor seconds of everybody, and of the children that have ended."""
    t = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (sum(t) - t[3] - t[4]) / os.sysconf("SC_CLK_TCK"), r.ru_utime + r.ru_stime


def pair(ours, peer, rpc):
    """One of ours, one of the peer's, and the percentage of processor time that others took (servers of the peer that go on
    running cannot be told from others)."""
    (all0, mine0), t = busy(), time.monotonic()
    x, y = ours(), peer() if peer else None
    (all1, mine1), wall = busy(), time.monotonic() - t
    return x, y, max(0.0, 100 * (all1 - all0 - (mine1 - mine0)) / (wall * os.cpu_count())) if not rpc else float("nan")


def measure(name, ours, peer, runs, calm=100.0, rpc=False):
    a, b, others = [], [], []
    for _ in range(runs):
        tries = []
        while len(tries) < 10 and (not tries or tries[-1][2] > calm):
            tries.append(pair(ours, peer, rpc))
        x, y, o = min(tries, key=lambda t: t[2])
        a.append(x)
        others.append(o)
        if peer:
            b.append(y)
    line = {"line": name, "ours": statistics.median(a), "spread": (max(a) - min(a)) / statistics.median(a), "others": statistics.median(others)}
    if b:
        line |= {"peer": statistics.median(b), "ratio": statistics.median(x / y for x, y in zip(a, b))}
    text = " ".join(f"{k}={v:.3g}" if isinstance(v, float) else str(v) for k, v in line.items())
    print("#", text, file=sys.stderr, flush=True)
    return line


def pipeline(ours, peer, model, name, runs, calm):
    lines = []
    if peer.has("rpc-server"):
        with Rpc(peer) as rpc:
            lines.append(measure(f"{name} 2 x 1, 1 session", lambda: ours.single(model, 0, 32, 2, 1), lambda: peer.single(model, 0, 32, rpc.flags), runs, rpc=True))
            lines.append(measure(f"{name} 2 x 1, 8 sessions", lambda: ours.batch(model, 8, 2, 1), lambda: peer.batch(model, 8, rpc.flags), runs, rpc=True))
    else:
        print("# no rpc-server: pipeline lines are ours alone", file=sys.stderr)
        lines.append(measure(f"{name} 2 x 1, 1 session", lambda: ours.single(model, 0, 32, 2, 1), None, runs, calm))
    lines.append(measure(f"{name} 32 sessions on 2 x 1 over 16 on 1 x 2 (peer: the latter)", lambda: ours.batch(model, 32, 2, 1), lambda: ours.batch(model, 16, 1, 2), runs, calm))
    return lines


def depth(ours, peer, model, name, a):
    """Every round goes through all formats, one after the other, ours and then the peer's; a figure a depth comes of each."""
    got = {}
    for _ in range(a.runs):
        for kv, theirs in (x for x in DEPTH_PAIRS if x[0] in a.depth_kv.split(",")):
            (all0, mine0), t = busy(), time.monotonic()
            x, y = ours.deep(model, kv, a.gen, DEPTHS), peer.deep(model, theirs, a.gen, DEPTHS)
            (all1, mine1), wall = busy(), time.monotonic() - t
            o = max(0.0, 100 * (all1 - all0 - (mine1 - mine0)) / (wall * os.cpu_count()))
            for d, p, q in zip(DEPTHS, x, y):
                got.setdefault((kv, theirs, d), []).append((p, q, o))
            print("#", name, kv, theirs, " ".join(f"{p:.1f}/{q:.1f}" for p, q in zip(x, y)), f"others={o:.0f}", file=sys.stderr, flush=True)
    lines = []
    for (kv, theirs, d), g in got.items():
        mine = [p for p, _, _ in g]
        lines.append({"line": f"{name} tg{a.gen} at depth {d}, KV {kv} (peer: {theirs})", "ours": statistics.median(mine),
                      "spread": (max(mine) - min(mine)) / statistics.median(mine), "others": statistics.median(o for _, _, o in g),
                      "peer": statistics.median(q for _, q, _ in g), "ratio": statistics.median(p / q for p, q, _ in g)})
    return lines


def main():
    p = argparse.ArgumentParser()
    p.add_argument("models", nargs="+")
    p.add_argument("--peer", required=True)
    p.add_argument("--peer-flags", default="-rtr 1 -fa 1", help="for llama-bench")
    p.add_argument("--peer-batch-flags", default="-fa on", help="for llama-batched-bench (older ones: -fa)")
    p.add_argument("--flags", default="", help="for sluice bench, such as \"--chunk 512\"")
    p.add_argument("--bin", default="build/release")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--gen", type=int, default=64)
    p.add_argument("--calm", type=float, default=100, help="percent of processor time that others may take (each pair is tried 10 times)")
    p.add_argument("--only", default="decode,prompt,batch,pipeline", help="of these, bf16 (prompts on path bf16amx) and depth")
    p.add_argument("--wrap", default="", help="depth, ours: words in front of each program that measures (another scheduler, a tool that stops the others)")
    p.add_argument("--depth-kv", default=",".join(k for k, _ in DEPTH_PAIRS), help="depth: of our formats, these")
    p.add_argument("--peer-source", help="depth: folder with the peer's include/ and ggml/include/ (llama.cpp)")
    a = p.parse_args()
    only, ours, peer, lines = a.only.split(","), Ours(a), Peer(a), []
    for model in a.models:
        name = os.path.basename(model).removesuffix(".gguf")
        if "decode" in only:
            lines.append(measure(f"{name} tg{a.gen}", lambda: ours.single(model, 0, a.gen), lambda: peer.single(model, 0, a.gen), a.runs, a.calm))
        if "prompt" in only:
            lines.append(measure(f"{name} pp{a.prompt}", lambda: ours.single(model, a.prompt, 0), lambda: peer.single(model, a.prompt, 0), a.runs, a.calm))
        if "bf16" in only:    # the path for tiles; elsewhere slower than the first one
            bf16 = ["--prompt-arith", "bf16amx"]
            lines.append(measure(f"{name} pp{a.prompt}, bf16amx", lambda: ours.single(model, a.prompt, 0, more=bf16), lambda: peer.single(model, a.prompt, 0), a.runs, a.calm))
        if "batch" in only:
            lines.append(measure(f"{name} decode, {BATCH} sessions", lambda: ours.batch(model, BATCH), lambda: peer.batch(model, BATCH), a.runs, a.calm))
        if "depth" in only:
            lines += depth(ours, peer, model, name, a)
        if "pipeline" in only:
            lines += pipeline(ours, peer, model, name, a.runs, a.calm)
    print("| line | ours t/s | peer t/s | ratio (median of pairs) | spread of ours | others |\n|---|---:|---:|---:|---:|---:|")
    for l in lines:
        other = f"{l['peer']:.1f} | {l['ratio']:.2f}" if "peer" in l else "- | -"
        print(f"| {l['line']} | {l['ours']:.1f} | {other} | {100 * l['spread']:.0f} % | {l['others']:.0f} % |")


main()
