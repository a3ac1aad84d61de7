"""What `prepare`, `phantoms`, `tables` and gradVisual.py refuse."""

from __future__ import annotations

import pickle
from collections.abc import Callable

from tests.support.faults import PHANTOMS, PREPARE, TABLES, VISUAL, Case, parameters
from tests.support.spoiling import (
    Malicious,
    bad_archive,
    both,
    change_record,
    chest,
    covid,
    decompression_bomb,
    in_download,
    isic,
    make_folder,
    make_link,
    mesidor,
    replace_file,
    replace_line,
    truncate,
    write,
)

ISIC_TABLE = "source/ISIC-2017_Training_Part3_GroundTruth.csv"
COVID = "source/COVID-19_Radiography_Dataset/COVID-19_Radiography_Dataset"
MEDMNIST = f"{PREPARE} medmnist --source retinamnist.npz"
A_FILE = write("file", "kept")

CASES = [
    Case("prepare: nothing there", f"{PREPARE} isic2017 --source none", ("--source", "none", "no such folder")),
    Case("prepare: unknown", f"{PREPARE} messidor --source data", ("'messidor'", "choose from mesidor, isic2017")),
    Case(
        "prepare: into itself",
        f"{PREPARE} mesidor --source . --dataRoot data",
        ("--dataRoot data lies inside --source .", "outside it"),
    ),
    Case(
        "prepare: another folder",
        f"{PREPARE} covid19radiography --source data",
        ("COVID/images", "data, found ", ".png", "official download"),
        process=True,
    ),
    Case(
        "prepare: not unpacked",
        f"{PREPARE} mesidor --source source",
        ("not unpacked (Base11.zip", "unpack"),
        write("source/Base11.zip", ""),
    ),
    *(
        Case(
            f"npz: {how}", f"{PREPARE} medmnist --source retinamnist.npz", ("retinamnist.npz", *says), bad_archive(how)
        )
        for how, *says in (
            ("cut", "not a readable NumPy array", "download it again"),
            ("text", "not a readable NumPy array", "download it again"),
            ("empty", "not a readable NumPy array", "download it again"),
            ("object", "test_labels", "got dtype object", "download the archive again"),
            ("label", "test_labels, item 0", "labels of 0 to 4, got [5]"),
            ("member", "expected an array val_images", "as downloaded"),
            ("floats", "train_images: expected uint8 images", "got float32"),
            ("outside", "expected an array train_images, got ../train_images", "as downloaded"),
            ("shape", "train_images", "12288000000", "download the archive again"),
        )
    ),
    Case(
        "npz: unknown name",
        f"{PREPARE} medmnist --source blood.npz",
        ("got blood.npz", "rename it"),
        write("blood.npz", ""),
    ),
    Case(
        "xls damaged",
        f"{PREPARE} mesidor --source source",
        ("Annotation_Base11.xls is not a readable .xls", "download it again"),
        in_download(mesidor, truncate("source/Annotation_Base11.xls")),
    ),
    Case(
        "xls a pickle",
        f"{PREPARE} mesidor --source source",
        ("cannot read source/Annotation_Base11.xls: it is no text", "save it as CSV"),
        in_download(mesidor, write("source/Annotation_Base11.xls", pickle.dumps(Malicious()))),
    ),
    Case(
        "labels: wrong column",
        f"{PREPARE} isic2017 --source source",
        ("GroundTruth.csv row 1: expected a column 'melanoma'", "official file"),
        in_download(isic, replace_line(ISIC_TABLE, 1, "image_id,a,b")),
    ),
    Case(
        "labels: out of range",
        f"{PREPARE} isic2017 --source source",
        ("GroundTruth.csv row 2: expected a label of 0.0 or 1.0, got '2.0'", "correct the row"),
        in_download(isic, replace_line(ISIC_TABLE, 2, "ISIC_0000001,2.0,0.0")),
    ),
    Case(
        "labels: name upwards",
        f"{PREPARE} isic2017 --source source",
        ("GroundTruth.csv row 2: expected a plain file name, got '../../x'", "correct the row"),
        in_download(isic, replace_line(ISIC_TABLE, 2, "../../x,0.0,0.0")),
    ),
    Case(
        "labels: a formula",
        f"{PREPARE} chestxray14 --source source",
        ("Data_Entry_2017.csv row 2: expected a plain file name, got '=cmd()'",),
        in_download(chest, replace_line("source/Data_Entry_2017.csv", 2, "=cmd(),Mass,0,1")),
    ),
    Case(
        "labels: not UTF-8",
        f"{PREPARE} chestxray14 --source source",
        ("Data_Entry_2017.csv row 1: expected a column 'Image Index'", "give the official file"),
        in_download(chest, write("source/Data_Entry_2017.csv", b"\xff\xfe")),
    ),
    Case(
        "labels: unknown",
        f"{PREPARE} chestxray14 --source source",
        ("Data_Entry_2017.csv row 2: ", "'Cough' does not belong"),
        in_download(chest, replace_line("source/Data_Entry_2017.csv", 2, "00000001_000.png,Cough,0,1")),
    ),
    Case(
        "mask a bomb",
        f"{PREPARE} covid19radiography --source source --partial",
        ("COVID-1.png is not a readable mask", "again"),
        in_download(
            covid, lambda folder: replace_file(folder / COVID / "COVID/masks/COVID-1.png", decompression_bomb())
        ),
        leaves=("new", "new/*"),
    ),
    Case(
        "mask text",
        f"{PREPARE} covid19radiography --source source --partial",
        ("COVID-2.png is not a readable mask", "again"),
        in_download(covid, write(f"{COVID}/COVID/masks/COVID-2.png", "x")),
        leaves=("new", "new/*"),
    ),
    Case(
        "meta missing",
        f"{PREPARE} isic2017 --source source --meta none",
        ("--meta", "none: no such folder"),
        in_download(isic, A_FILE),
    ),
    Case(
        "meta upwards",
        f"{PREPARE} isic2017 --source source --meta meta",
        ("trainbin.csv row 1: expected a plain file name, got '../a.jpg'",),
        in_download(isic, write("meta/trainbin.csv", "../a.jpg,0\n")),
    ),
    Case(
        "meta absolute",
        f"{PREPARE} isic2017 --source source --meta meta",
        ("trainSeg.csv row 1: expected a plain file name, got '/etc/passwd'",),
        in_download(isic, write("meta/trainSeg.csv", "ISIC_0000001.jpg,/etc/passwd\n")),
    ),
    Case(
        "other lists there",
        f"{PREPARE} isic2017 --source source --dataRoot data",
        ("train.csv exists with other rows", "nothing was changed", "another --dataRoot"),
        in_download(isic, A_FILE),
    ),
    Case(
        "folder for a list",
        f"{PREPARE} isic2017 --source source",
        ("new/mel2017/train.csv: Is a directory", "check that place, or name another"),
        in_download(isic, make_folder("new/mel2017/train.csv")),
    ),
    Case(
        "other file there",
        f"{PREPARE} isic2017 --source source",
        ("ISIC_0000001.jpg exists and differs", "nothing was changed"),
        in_download(isic, write("new/mel2017/img/ISIC_0000001.jpg", "x")),
    ),
    Case(
        "phantoms over others",
        f"{PHANTOMS} data --seed 1",
        ("data/mel2017 holds phantoms made with seed 0", "another --dataRoot"),
    ),
    Case(
        "phantoms over real lists",
        f"{PHANTOMS} new",
        ("trainbin.csv is not marked as phantom", "another --dataRoot"),
        write("new/xray/trainbin.csv", "a.png,0\n"),
    ),
    Case(
        "phantoms through a link",
        f"{PHANTOMS} new",
        ("new/mesidor holds files that are not marked", "another --dataRoot"),
        make_link("new/mesidor/img/x.tif", "out"),
    ),
    Case("tables of nothing", f"{TABLES} data none", ("none is not a result file", "expected a .json file")),
    Case("tables of a folder without", f"{TABLES} data", ("no result files", "in data")),
    Case(
        "results cut",
        f"{TABLES} results",
        ("melBin__mv2.json is not a result file", "expected a .json file"),
        truncate("results/melBin__mv2.json"),
    ),
    Case(
        "results a pickle",
        f"{TABLES} bad.json",
        ("bad.json is not a result file",),
        write("bad.json", pickle.dumps(Malicious())),
    ),
    Case(
        "results too deep", f"{TABLES} bad.json", ("bad.json is not a result file",), write("bad.json", "[" * 200_000)
    ),
    Case(
        "results without rows",
        f"{TABLES} results",
        ("melBin__mv2.json is damaged: it has no rows", "run the test again"),
        change_record(lambda record: record.update(rows=[])),
    ),
    Case(
        "results of odd rows",
        f"{TABLES} results",
        ("is damaged", "another type", "run the test again"),
        change_record(lambda record: record.update(rows=[1])),
    ),
    Case(
        "results not finite",
        f"{TABLES} results",
        ("is damaged", "not finite: accuracy"),
        change_record(lambda record: record["rows"][0]["scores"].update(accuracy=float("inf"))),
    ),
    Case(
        "results without hashes",
        f"{TABLES} results",
        ("it has no run.target_sha256", "run the test again"),
        change_record(lambda record: record["run"].pop("target_sha256")),
    ),
    Case(
        "unknown score",
        f"{TABLES} results --scores beauty",
        ("--scores beauty: no result file has this score", "choose from accuracy"),
    ),
    Case(
        "maps of another run",
        f"{VISUAL} --saveDir maps",
        ("maps holds the maps of another run", "another --saveDir"),
        write("maps/gradVisual.json", '{"run": {}}'),
    ),
    Case(
        "maps' record damaged",
        f"{VISUAL} --saveDir maps",
        ("gradVisual.csv exists and is not of this run", "another --saveDir"),
        both(write("maps/gradVisual.json", "{"), write("maps/gradVisual.csv", "x")),
    ),
]


@parameters(CASES)
def test_fault(case: Case, check_case: Callable[[Case], None]) -> None:
    """Fails if a command accepts what is bad, does not say what and where in one line, or changes a file."""
    check_case(case)
