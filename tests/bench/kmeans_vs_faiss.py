#!/usr/bin/env python3
"""Our k-means beside faiss's (and scikit-learn's start) on the same vectors, threads and number of steps.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install faiss-cpu scikit-learn numpy
    /tmp/venv/bin/python tests/bench/kmeans_vs_faiss.py BUILD/tests/bench_kmeans [--threads 2] [--small]

Objectives are those of the final centroids, by one exact search over all vectors, divided by the total weight; "equal" is the least number of our steps
whose objective is no higher than that of faiss's last one, start included. On a shared machine compare the CPU times, at one thread.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

CASES = [  # n, dim, k, iterations, weighted
    (28672, 4, 256, 25, False),
    (221184, 4, 256, 25, False),
    (221184, 4, 256, 25, True),
    (300000, 6, 4096, 10, False),
    (1000000, 8, 65536, 2, False),
]


def objective(faiss, vectors, weights, centroids):
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(centroids)
    distance2, _ = index.search(vectors, 1)
    return float((distance2[:, 0].astype("float64") * weights).sum() / weights.sum(dtype="float64"))


def compare(faiss, np, KMeans, options, case, vectors, weights, run_ours):
    n, dim, k, iterations, weighted = case
    ours, our_objective = run_ours(iterations)

    def run_faiss(steps):
        kmeans = faiss.Kmeans(dim, k, niter=steps, nredo=1, seed=1, max_points_per_centroid=1 << 30, min_points_per_centroid=1)
        start, start_cpu = time.perf_counter(), time.process_time()
        kmeans.train(vectors, weights=weights if weighted else None)
        return kmeans, time.perf_counter() - start, time.process_time() - start_cpu

    few = 1
    _, few_s, few_cpu_s = run_faiss(few)
    kmeans, faiss_s, faiss_cpu_s = run_faiss(iterations)
    faiss_objective = objective(faiss, vectors, weights, kmeans.centroids)
    faiss_step = (faiss_s - few_s) / (iterations - few)
    faiss_step_cpu = (faiss_cpu_s - few_cpu_s) / (iterations - few)
    print(f"n {n} dim {dim} k {k} {'weighted ' if weighted else ''}{iterations} steps, {options.threads} threads")
    print(f"  ours   {our_objective:.6f}  step {ours['iteration_s'] * 1e3:9.2f} ms (cpu {ours['iteration_cpu_s'] * 1e3:9.2f} ms)  total {ours['total_s']:8.3f} s  start {ours['start_s']:.3f} s"
          f"  steps done {ours['iterations']}")
    print(f"  faiss  {faiss_objective:.6f}  step {faiss_step * 1e3:9.2f} ms (cpu {faiss_step_cpu * 1e3:9.2f} ms)  total {faiss_s:8.3f} s   objective ours/faiss"
          f" {our_objective / faiss_objective:.4f}  step faiss/ours {faiss_step / ours['iteration_s']:.2f}, cpu {faiss_step_cpu / ours['iteration_cpu_s']:.2f}", flush=True)
    least, most = 1, iterations  # our objective falls with the steps
    equal, equal_objective = ours, our_objective
    while least < most:
        middle = (least + most) // 2
        tried, its_objective = run_ours(middle)
        if its_objective <= faiss_objective:
            most, equal, equal_objective = middle, tried, its_objective
        else:
            least = middle + 1
    print(f"  equal  {equal_objective:.6f}  {most} steps  total {equal['total_s']:8.3f} s   faiss/ours {faiss_s / equal['total_s']:.2f}", flush=True)
    if KMeans is not None and k <= 256:
        start = time.perf_counter()
        fitted = KMeans(k, init="k-means++", n_init=1, max_iter=iterations, tol=0, algorithm="lloyd", random_state=1).fit(
            vectors, sample_weight=weights)
        sklearn_s = time.perf_counter() - start
        their = objective(faiss, vectors, weights, np.ascontiguousarray(fitted.cluster_centers_.astype("float32")))
        print(f"  sklearn {their:.6f}  total {sklearn_s:8.3f} s   objective ours/sklearn {our_objective / their:.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="leave out k = 65536")
    parser.add_argument("--large", action="store_true", help="k above 256 only")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import faiss
    import numpy as np
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        KMeans = None
    faiss.omp_set_num_threads(options.threads)
    rng = np.random.default_rng(7)
    for n, dim, k, iterations, weighted in CASES:
        if (options.small and k > 4096) or (options.large and k <= 256):
            continue
        # Heavier tails than a Gaussian, neighbours correlated: closer to weights than white noise is.
        mix = np.eye(dim) + 0.3 * rng.standard_normal((dim, dim)) / np.sqrt(dim)
        vectors = np.ascontiguousarray((rng.standard_t(6, (n, dim)) @ mix).astype("float32"))
        weights = np.exp(rng.standard_normal(n)).astype("float32") if weighted else np.ones(n, "float32")
        with tempfile.TemporaryDirectory() as folder:
            names = [os.path.join(folder, name) for name in ("vectors", "weights", "centroids")]
            vectors.tofile(names[0])
            weights.tofile(names[1])

            def run_ours(steps):
                run = subprocess.run([options.program, "--file", names[0], str(n), str(dim), str(k), str(steps), str(options.threads),
                                      names[1], names[2], "1"], stdout=subprocess.PIPE, text=True)
                if run.returncode != 0:
                    sys.exit(run.returncode)
                return json.loads(run.stdout), objective(faiss, vectors, weights, np.fromfile(names[2], "float32").reshape(k, dim))

            compare(faiss, np, KMeans, options, (n, dim, k, iterations, weighted), vectors, weights, run_ours)


if __name__ == "__main__":
    main()
