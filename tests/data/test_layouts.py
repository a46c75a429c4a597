"""Which file belongs to which class and split, in folders as people have them."""

import unicodedata

import pytest

from sharedmlp.data import DataError, check_classes, recognize_layout, summarize_left_out


def write(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return root


def names_of(layout):
    return {split: [f.name for f in layout.of_split(split)] for split in ("train", "val", "test")}


def left_out_of(layout):
    return dict(layout.left_out)


def test_a_folder_a_class_with_a_folder_a_split(tmp_path):
    write(tmp_path, "b/Train/1.off", "b/val/2.off", "a/TEST/deeper/3.off", "a/train/4.ply")
    layout = recognize_layout(tmp_path)
    assert layout.name == "<class>/{train,val,test}"
    assert layout.class_names == ("a", "b")
    assert names_of(layout) == {
        "train": ["a/train/4.ply", "b/Train/1.off"],
        "val": ["b/val/2.off"],
        "test": ["a/TEST/deeper/3.off"],
    }
    assert {file.name: file.class_name for file in layout.files}["a/train/4.ply"] == "a"
    assert not layout.drawn


def test_a_folder_a_split_with_a_folder_a_class(tmp_path):
    write(tmp_path, "training/b/1.off", "Validation/b/2.off", "test/a/3.off", "docs/x.off")
    layout = recognize_layout(tmp_path)
    assert layout.name == "{train,val,test}/<class>"
    assert layout.class_names == ("a", "b")
    assert names_of(layout) == {
        "train": ["training/b/1.off"],
        "val": ["Validation/b/2.off"],
        "test": ["test/a/3.off"],
    }
    assert left_out_of(layout) == {"docs/": "that is no split"}


def test_without_splits_a_share_of_each_class_is_set_aside_by_the_seed(tmp_path):
    write(tmp_path, *(f"{c}/{n}.off" for c in "ab" for n in range(10)))
    first, again = (recognize_layout(tmp_path, seed=0) for _ in range(2))
    assert first == again
    assert first.drawn
    assert first.name == "<class>, split by the seed 0"
    test = first.of_split("test")
    assert [file.class_name for file in test] == ["a", "a", "b", "b"]
    assert len(first.of_split("train")) == 16
    assert recognize_layout(tmp_path, seed=1).of_split("test") != test


def test_two_layouts_at_once_are_refused(tmp_path):
    write(tmp_path, "a/train/1.off", "test/b/1.off")
    with pytest.raises(DataError, match="a has folders for splits, and test is one itself"):
        recognize_layout(tmp_path)


def test_what_is_not_used_is_named_with_its_reason(tmp_path):
    write(tmp_path, "a/train/1.off", "a/train/1.obj", "a/train/1.mtl", "a/train/read.txt")
    write(tmp_path, "a/.DS_Store", "a/train/._1.off", "__MACOSX/a/1.off", "a/extra/9.off")
    write(tmp_path, "b/train/1.off", "b/x.off", "notes.md", "other/1.off")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "a" / "train" / "gone.off").symlink_to(tmp_path / "nowhere")
    layout = recognize_layout(tmp_path)
    assert names_of(layout)["train"] == ["a/train/1.off", "b/train/1.off"]
    assert layout.class_names == ("a", "b")
    assert left_out_of(layout) == {
        "a/extra/": "that is no split",
        "a/train/1.mtl": ".mtl, no format that is read here",
        "a/train/1.obj": "the same as 1.off",
        "a/train/gone.off": "that is no regular file",
        "a/train/read.txt": ".txt beside .obj, .off",
        "b/x.off": "in no folder of a split",
        "empty/": "class folder without files",
        "notes.md": "in no class folder",
        "other/": "without a folder train, val or test",
    }
    assert "1 the same shape in another format (a/train/1.obj)" in summarize_left_out(
        layout.left_out
    )


def test_text_is_data_if_there_is_nothing_else(tmp_path):
    write(tmp_path, *(f"{c}/train/{n}.txt" for c in "ab" for n in range(2)))
    assert len(recognize_layout(tmp_path).files) == 4


def test_names_with_spaces_and_accents_in_two_spellings_are_one_class(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "Stühle groß") for form in ("NFC", "NFD"))
    write(tmp_path, f"train/{nfc}/1.off", f"test/{nfd}/2.off", "train/b/1.off")
    assert recognize_layout(tmp_path).class_names == (nfc, "b")


def test_classes_are_in_the_order_of_numbers_if_they_are_numbers(tmp_path):
    write(tmp_path, *(f"{n}/train/1.off" for n in (10, 9, 1)))
    assert recognize_layout(tmp_path).class_names == ("1", "9", "10")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds nothing; expected <class>"),
        (["1.off", "2.off"], "holds 2 files and no folders"),
        (["set/a/1.off", "set/b/1.off"], r"holds one folder, set: .* name .*/set itself"),
        (["a/1.off", "a/2.off", "b/1.off"], "the class a has 2 of the 3 files or more"),
        (["train/1.off", "test/2.off"], "no file of a format that is read here; .*in no class f"),
        (["a/train/1.png"], r"no file of a format.*1 \.png, no format"),
        (["a/train/1.off", "A/test/1.off"], "classes A and a differ in case alone"),
        (["shape_names.txt", "train_files.txt"], "add --data HDF5DataModule"),
        (["modelnet40_shape_names.txt"], "add --data ModelNet40NormalsDataModule"),
    ],
)
def test_what_is_no_set_is_one_line(tmp_path, names, message):
    write(tmp_path, *names)
    with pytest.raises(DataError, match=message) as caught:
        recognize_layout(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("file", "told"), [("a/1.off", False), ("a/b/1.off", True)])
def test_of_one_class_the_folder_below_is_named_if_it_may_be_the_set(tmp_path, file, told):
    write(tmp_path, file)
    with pytest.raises(DataError, match=r"there is one class alone \(a\)") as caught:
        check_classes(tmp_path, ["a"])
    assert (f"if its folders are the classes, name {tmp_path / 'a'};" in str(caught.value)) == told


def write_list(folder, text, encoding="utf-8"):
    write(folder, "x/a b.off", "x/ü.off", "y/1.off")
    (folder / "list.csv").write_bytes(text.encode(encoding))
    return folder / "list.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_list_of_files_in_what_spreadsheets_write(tmp_path, encoding, delimiter):
    text = "Split,File,n,Class\r\ntrain,x\\a b.off,1,chair\r\n\r\nTest,x/ü.off,2,Stühle\r\n"
    path = write_list(tmp_path, text.replace(",", delimiter), encoding)
    for root in (path, tmp_path):
        layout = recognize_layout(root)
        assert layout.name == "a list of files, list.csv"
        assert layout.class_names == ("Stühle", "chair")
        assert names_of(layout) == {"train": ["x/a b.off"], "val": [], "test": ["x/ü.off"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,kind\nx/a b.off,a\n", "names its columns, path and label"),
        ("path,label\nno.off,a\ny/1.off,b\n", r"1 of 2 files are missing.*no\.off \(line 2\)"),
        ("path,label\ny/1.off,\n", "line 2: expected a path and a label"),
        ("path,label,split\ny/1.off,a,holdout\n", "line 2: the split is .* got 'holdout'"),
        ("path,label\ny/1.off,a\ny/1.off,b\n", r"line 3: y/1\.off is named more than once"),
        ("path,label,split\ny/1.off,a,test\nx/ü.off,b,\n", "some files have a split, and x/ü"),
    ],
)
def test_lists_that_do_not_fit_are_one_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        recognize_layout(write_list(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_two_lists_in_a_folder_are_a_question(tmp_path):
    write_list(tmp_path, "path,label\n")
    (tmp_path / "b.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"b\.csv, list\.csv are lists of files: name one"):
        recognize_layout(tmp_path)
