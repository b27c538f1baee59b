"""Ranking metrics of bm25s beside Edgewise's; see compare-bm25.

Both index title and text of each document, bm25s as one text, which is how BEIR's published BM25 figures are made, and
both are scored here by the same functions over the same documents: Edgewise writes its rankings as TREC runs.
"""

import collections
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import bm25s
import Stemmer

DEPTH = 100
PARAMETERS = [(0.9, 0.4), (1.2, 0.75), (1.5, 0.75)]


def read(folder):
    lines = lambda name: [json.loads(line) for line in open(folder / name, encoding="utf-8") if line.strip()]
    grades = collections.defaultdict(dict)
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0:
            grades[query][document] = int(grade)
    return lines("corpus.jsonl"), [query for query in lines("queries.jsonl") if query["_id"] in grades], grades


def ndcg(ranking, relevant, k=10):
    gain = lambda grades: sum(grade / math.log2(at + 2) for at, grade in enumerate(grades[:k]))
    return gain([relevant.get(d, 0) for d in ranking]) / gain(sorted(relevant.values(), reverse=True))


def recall(ranking, relevant, k=100):
    return len(set(ranking[:k]) & set(relevant)) / len(relevant)


def interval(values, resamples=1000):
    rng = random.Random(1)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    return means[round(0.025 * (resamples - 1))], means[round(0.975 * (resamples - 1))]


def peer(documents, queries, k1, b):
    stemmer = Stemmer.Stemmer("english")
    texts = [f"{document.get('title', '')} {document['text']}" for document in documents]
    tokens = lambda texts: bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(tokens(texts), show_progress=False)
    depth = min(DEPTH, len(documents))
    found, scores = index.retrieve(tokens([query["text"] for query in queries]), k=depth, show_progress=False)
    return {
        query["_id"]: [documents[at]["_id"] for at, score in zip(ats, row) if score > 0]
        for query, ats, row in zip(queries, found, scores)
    }


def edgewise(folder):
    with tempfile.TemporaryDirectory() as runs:
        command = [*os.environ["EDGEWISE"].split(), "eval", "retrieval", "--data", str(folder), "--lexical-only"]
        subprocess.run([*command, "--json", "--runs", runs], check=True, stdout=subprocess.DEVNULL)
        (path,) = pathlib.Path(runs).glob("*.bm25.run")
        rankings = collections.defaultdict(list)
        for line in path.read_text().splitlines():
            query, _, document, _rank, _score, _tag = line.split()
            rankings[query].append(document)
    return rankings


def main(folders):
    print(f"{'set':12} {'system':24} {'ndcg@10':24} {'recall@100':10}  ndcg@10: edgewise minus this")
    for folder in map(pathlib.Path, folders):
        documents, queries, grades = read(folder)
        systems = {"edgewise": edgewise(folder)}
        for k1, b in PARAMETERS:
            systems[f"bm25s lucene {k1}/{b}"] = peer(documents, queries, k1, b)
        ours = [ndcg(systems["edgewise"][query["_id"]], grades[query["_id"]]) for query in queries]
        for name, rankings in systems.items():
            values = [ndcg(rankings[query["_id"]], grades[query["_id"]]) for query in queries]
            found = [recall(rankings[query["_id"]], grades[query["_id"]]) for query in queries]
            low, high = interval(values)
            line = f"{folder.name:12} {name:24} {sum(values) / len(values):.4f} [{low:.3f}, {high:.3f}]    "
            line += f"{sum(found) / len(found):.4f}    "
            if name != "edgewise":
                differences = [a - b for a, b in zip(ours, values)]
                low, high = interval(differences)
                line += f"  {sum(differences) / len(differences):+.4f} [{low:+.3f}, {high:+.3f}]"
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
