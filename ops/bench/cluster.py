"""A cluster for a bench: `sluice up` in a folder of its own until the block ends, and batches of jobs through it."""
import json, os, subprocess, sys, tempfile


def busy():
    """Processor seconds of everybody since the machine started."""
    t = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return (sum(t) - t[3] - t[4]) / os.sysconf("SC_CLK_TCK")


class Cluster:
    def __init__(self, bin, *words):
        self.bin, self.words = bin, words

    def __enter__(self):
        self.tmp = tempfile.TemporaryDirectory()
        self.sluice("up", *self.words, "--journal", "none")
        return self

    def __exit__(self, *_):
        self.sluice("down")
        self.tmp.cleanup()

    def sluice(self, *words):
        p = subprocess.run([self.bin + "/sluice", *words, "--dir", self.tmp.name + "/run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if p.returncode:
            sys.exit(f"sluice {' '.join(words)}: status {p.returncode}\n{p.stderr[-2000:]}")
        return p.stdout

    def batch(self, jobs):
        """Results of jobs that are under way together."""
        path, out = self.tmp.name + "/jobs", self.tmp.name + "/out"
        with open(path, "w") as f:
            f.writelines(json.dumps(j) + "\n" for j in jobs)
        if os.path.exists(out):
            os.remove(out)
        self.sluice("submit", "--batch", path, "-o", out)
        with open(out) as f:
            return [json.loads(line) for line in f]
