"""Fuzzing of everything that reads a stranger's bytes: audio, checkpoints, configs, labels, and the native ops.

In ``make test`` hypothesis tries a few hundred inputs of each target (test_targets.py). For hours, by hand, guided by
coverage, with its corpus and its findings in a folder:

    python -m tests.fuzz.run --target decode --minutes 60
    python -m tests.fuzz.run --target native --minutes 60 --sanitized

``targets.py`` says what each target does with an input and which errors it may raise. A finding is any other exception,
a crash, an input that takes over 5 s or 300 MB, and anything that is printed.
"""
