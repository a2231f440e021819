"""Label tables, id2label and the labels= override."""

import hashlib
import re

import pytest

from astfast import labels
from astfast.errors import CheckpointError

# SHA-256 of AudioSet's class_labels_indices.csv as Google published it; four independent copies were compared.
AUDIOSET_SHA256 = "cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429"
# SHA-256 of the lines "mid, tab, name", sorted by mid, of the 527 classes of ontology.json that have an index
# (https://github.com/audioset/ontology at d417d32): a second source, in which no index can be mistaken.
ONTOLOGY_SHA256 = "483b0059e0d47f7c4c4183e64700f17c214017e38da3ca439b3a8efc10468cbb"


def test_audioset_table_is_the_published_file():
    assert hashlib.sha256((labels.DATA / "audioset.csv").read_bytes()).hexdigest() == AUDIOSET_SHA256


def test_audioset_names_are_those_of_the_ontology_by_machine_id():
    table = labels.table("audioset")
    assert all(re.fullmatch(r"/[mgt]/[0-9a-z_]+", label.mid) for label in table)
    lines = sorted(f"{label.mid}\t{label.display_name}\n" for label in table)
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == ONTOLOGY_SHA256


def test_audioset_rows():
    table = labels.table("audioset")
    assert [label.index for label in table] == list(range(527))
    assert len({label.mid for label in table}) == 527
    assert table[0] == labels.Label(0, "/m/09x0r", "Speech")
    assert table[131].display_name == "Bee, wasp, etc."  # quoted commas in the file
    assert table[345].display_name == "Dental drill, dentist's drill"
    assert table[433] == labels.Label(433, "/g/122z_qxw", "Firecracker")
    assert table[526] == labels.Label(526, "/m/07hvw1", "Field recording")


def test_speech_commands_and_esc50():
    words = labels.packaged(35)
    assert words[:3] == ("backward", "follow", "five")
    assert words[-2:] == ("go", "one")
    assert len(set(words)) == 35
    sounds = labels.packaged(50)
    assert (sounds[0], sounds[37], sounds[49]) == ("dog", "clock_alarm", "hand_saw")
    assert sounds[30] == "door_wood_knock"
    assert len(set(sounds)) == 50
    assert labels.table("esc50")[0].mid is None


@pytest.mark.parametrize("count", [0, 34, 36, 49, 51, 526, 528])
def test_no_packaged_table_for_other_counts(count):
    assert labels.packaged(count) is None


def test_unknown_table():
    with pytest.raises(KeyError, match="audioset, speech_commands, esc50"):
        labels.table("urbansound")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (5, "labels= is 5: pass the names in order"),
        (["a", 3], "labels= has 3 at index 1: every"),
        ({"a", "b"}, r"labels= is \{.*\}: pass the names in order"),
        ({"b": 1, "a": 0}, r"labels= is \{.*\}: pass the names in order"),
    ],
)
def test_labels_that_are_no_names(wrong, message):
    with pytest.raises(CheckpointError, match=message):
        labels.read(wrong)


@pytest.mark.parametrize("key", [int, str])
def test_id2label_keys_may_be_ints_or_strings_in_any_order(key):
    names = [f"name {i}" for i in range(11)]  # 10 sorts before 2 as a string
    shuffled = {key(i): names[i] for i in (10, 3, 0, 7, 2, 9, 1, 8, 4, 6, 5)}
    assert labels.from_id2label(shuffled, "x") == tuple(names)


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        ({"0": "a", "2": "c"}, "none of index 1"),
        ({"1": "a", "2": "c"}, "none of index 0"),
        ({"-1": "a", "0": "c"}, "none of index 1"),
        ({"0": "a", 0: "b"}, "two labels of index 0"),
        ({"zero": "a"}, "'zero', which is no index"),
        (["a", "b"], "list, not a mapping"),
        ({"0": "a", "1": None}, "no name for index 1: it is null"),
    ],
)
def test_id2label_refused(id2label, message):
    with pytest.raises(CheckpointError, match=message) as error:
        labels.from_id2label(id2label, "some/config.json")
    assert "some/config.json" in str(error.value)


def test_names_of_a_config_are_its_id2labels_else_its_label2ids():
    label2id = {"b": 1, "a": "0"}
    assert labels.of_config({"id2label": {"0": "c", "1": "d"}, "label2id": label2id}) == ("c", "d")
    assert labels.of_config({"label2id": label2id}) == ("a", "b")
    assert labels.of_config({"id2label": {}, "label2id": None}) is labels.of_config(None) is None


@pytest.mark.parametrize(
    ("label2id", "message"),
    [({"a": 0, "b": 2}, "none of index 1"), ({"a": [0]}, "no index"), (["a"], "is a list")],
)
def test_label2id_refused(label2id, message):
    with pytest.raises(CheckpointError, match=f"label2id.*{message}"):
        labels.of_config({"label2id": label2id})


def test_labels_override(tmp_path):
    assert labels.read(["a", "b, c"]) == ("a", "b, c")
    table = tmp_path / "labels.csv"
    table.write_text('index,mid,display_name\n1,/m/1,"b, c"\n0,/m/0,a\n')
    assert labels.read(table) == ("a", "b, c")
    lines = tmp_path / "labels.txt"
    lines.write_text("a\nb, c\n\n")
    assert labels.read(str(lines)) == ("a", "b, c")
    assert labels.read(labels.DATA / "audioset.csv") == labels.packaged(527)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\nb\n", "it needs index and display_name"), ("index,display_name\n0,a\n0,b\n", "twice"), ("", r"columns \(\)")],
)
def test_labels_file_refused(tmp_path, text, message):
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(CheckpointError, match=message):
        labels.read(table)


def test_labels_missing_file_and_non_strings(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.csv can't be read"):
        labels.read(tmp_path / "absent.csv")
    with pytest.raises(CheckpointError, match="7 at index 1"):
        labels.read(["a", 7])


@pytest.mark.parametrize(
    ("index", "mid", "name"),
    [(0, "/m/09x0r", "Speech"), (420, "/m/03p19w", "Jackhammer"), (427, "/m/032s66", "Gunshot, gunfire")],
)
def test_indices_that_are_often_mistaken_are_those_of_the_ontology(index: int, mid: str, name: str) -> None:
    """Machine ids of AudioSet's ontology: a well-known tool took 420, Jackhammer, for Gunshot, which is 427."""
    label = labels.table("audioset")[index]
    assert (label.index, label.mid, label.display_name) == (index, mid, name)


@pytest.mark.parametrize("read", [labels.read, lambda names: labels.from_id2label(dict(enumerate(names)), "x")])
def test_a_label_that_no_file_can_hold_is_escaped(read):
    assert read(["é", "b\udc80"]) == ("é", "b\\udc80")
