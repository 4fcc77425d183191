"""The model "voronoi" of lm-evaluation-harness: log-likelihoods by `voronoi score`, of anything that voronoi evaluates.

Texts go to the program as they are; it tokenizes them with the model's own tokenizer. Tasks that generate text are not supported.
"""
import json
import os
import shlex
import subprocess
import tempfile

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model


@register_model("voronoi")
class VoronoiLM(LM):
    """model: directory, GGUF file, run or checkpoint. program: with its launcher, "mpirun -n 4 voronoi". The other arguments are the
    options of `voronoi score`."""

    def __init__(self, model, program="voronoi", device=None, dtype=None, threads=None, max_length=None, tokenizer=None, bos=None,
                 batch_size=None, max_batch_size=None):
        super().__init__()
        del batch_size, max_batch_size  # given by the harness; the program divides the requests itself
        self.command = [*shlex.split(program), "score", "--model", str(model)]
        for name, value in (("device", device), ("dtype", dtype), ("threads", threads), ("max-length", max_length),
                            ("tokenizer", tokenizer), ("bos", bos)):
            if value is not None:
                self.command += [f"--{name}", str(value)]

    def _score(self, lines):
        if not lines:
            return []
        with tempfile.TemporaryDirectory() as folder:
            requests, answers = os.path.join(folder, "requests.jsonl"), os.path.join(folder, "answers.jsonl")
            with open(requests, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
            # What the program says goes to stderr, beside the harness's own lines.
            code = subprocess.run([*self.command, "--requests", requests, "--out", answers], check=False).returncode
            if code != 0:
                raise RuntimeError(f"voronoi score ended with exit code {code}; its message stands above")
            with open(answers, encoding="utf-8") as file:
                return [json.loads(line) for line in file]

    def loglikelihood(self, requests, disable_tqdm=False):
        pairs = [request.args for request in requests]
        answers = self._score([{"context": context, "continuation": continuation} for context, continuation in pairs])
        results = [(answer["loglikelihood"], answer["is_greedy"]) for answer in answers]
        for pair, result in zip(pairs, results):
            self.cache_hook.add_partial("loglikelihood", pair, result)
        return results

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        texts = [request.args for request in requests]
        results = [answer["loglikelihood"] for answer in self._score([{"text": text} for (text,) in texts])]
        for text, result in zip(texts, results):
            self.cache_hook.add_partial("loglikelihood_rolling", text, result)
        return results

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError("the model voronoi answers tasks by log-likelihoods (multiple choice, perplexity), not those that "
                                  "generate text; export the run and use the model hf for them")
