#!/usr/bin/env python3
"""random_text.py BYTES SEED: paragraphs of invented sentences under headings, of the characters that random_model.py has tokens for (no Z).

The same arguments give the same text everywhere. Standard library only.
"""
import random
import sys

ONSETS = ["b", "br", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "th", "v", "w"]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ou"]
ENDS = ["", "", "n", "r", "s", "t", "ck", "ld"]


def main():
    size, draw = int(sys.argv[1]), random.Random(int(sys.argv[2]))
    words = ["".join(draw.choice(part) for _ in range(n) for part in (ONSETS, VOWELS, ENDS)) for n in draw.choices([1, 2, 3], [3, 3, 1], k=400)]
    weights = [1 / (rank + 2) for rank in range(len(words))]  # as in a language: a few words make most of a text
    text = ""
    while len(text) < size:
        text += "\n" + draw.choice(words).capitalize() + "\n\n"
        for _ in range(draw.randint(1, 3)):
            sentences = []
            for _ in range(draw.randint(3, 7)):
                chosen = draw.choices(words, weights, k=draw.randint(4, 12))
                if len(chosen) > 8:
                    chosen[4] += ","
                sentences.append(" ".join(chosen).capitalize() + ".")
            text += " ".join(sentences) + "\n\n"
    sys.stdout.write(text[1:size + 1])


main()
