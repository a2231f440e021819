"""Tags the five recordings beside this file with the built-in model, and says where the time went."""

import csv
import itertools
import time
from pathlib import Path

import astfast
from astfast.audio.inputs import load_audio

SAMPLES = Path(__file__).parent


def main() -> None:
    """Prints the tags of each sample, a table of times, and how many samples were right."""
    with (SAMPLES / "labels.csv").open(newline="") as file:
        truth = {row["filename"]: row["label"] for row in csv.DictReader(file)}

    start = time.perf_counter()
    tagger = astfast.load()
    loading = time.perf_counter() - start
    print(f"{tagger!r} on {tagger.backend}\n")
    tagger.warmup()

    rate = tagger.config.front_end.sampling_rate
    seconds = {"decode": 0.0, "front end": 0.0, "model": 0.0}
    right = 0
    for filename, label in truth.items():
        times = [time.perf_counter()]
        clip = load_audio(SAMPLES / filename, target_rate=rate)
        times.append(time.perf_counter())
        features = tagger.features(clip.wave, sampling_rate=rate)
        times.append(time.perf_counter())
        tagger.forward(features)
        times.append(time.perf_counter())
        for stage, (begin, end) in zip(seconds, itertools.pairwise(times), strict=True):
            seconds[stage] += end - begin

        tags = tagger.classify(SAMPLES / filename, top_k=3)
        right += tags[0]["label"] == label
        print(f"{filename:<22} " + "  ".join(f"{tag['label']} {tag['score']:.0%}" for tag in tags))

    print(f"\nloading the model {1e3 * loading:.0f} ms, then for a clip of {clip.duration:.0f} s, on average:")
    for stage, total in seconds.items():
        print(f"  {stage:<10} {1e3 * total / len(truth):6.2f} ms")
    print(f"\ndemo: {right} of {len(truth)} right")


if __name__ == "__main__":
    main()
