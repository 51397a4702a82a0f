import re

import numpy as np
import pytest

from layouts import (
    SHIFT,
    class_folders,
    domain_folders,
    domainnet,
    file_settings,
    real_data,
    split_folders,
    visda,
)
from tl_lightning.config.compose import compose
from tl_lightning.config.validation import check as validation
from tl_lightning.data.datamodules.domain_folders import DomainFoldersDataModule, read_domain
from tl_lightning.errors import DataError

CLASSES = ("dog", "horse", "house")


def domains(root, source="photo", target="sketch", **kwargs):
    settings = {"folders": [], "known": {}, "elsewhere": "", "source": {"domain": source}}
    plain = target is None or isinstance(target, dict)
    settings["target"] = target if plain else {"domain": target}
    return DomainFoldersDataModule(**file_settings(root, **{**settings, **kwargs}))


def found(*args, **kwargs):
    data = domains(*args, **kwargs)
    data.discover()
    return data.found


def configured(name, root, *overrides):
    given = [f"data={name}", f"data.root={root}", "data.batch_size=2", *overrides]
    data = validation.check(compose(given)).data.build()
    data.discover()
    return data.found


def sizes(domain):
    return len(domain.train), len(domain.val), len(domain.test)


def labelled_by_name(domain):
    for split in domain.splits().values():
        for path, label in zip(split.samples, split.labels, strict=True):
            assert path.parent.name == domain.classes[label]
    return True


@pytest.mark.parametrize("level", ["", "images"])
def test_two_domains_are_read(tmp_path, level):
    both = found(domain_folders(tmp_path, level=level))
    assert (both["source"].name, both["target"].name) == ("photo", "sketch")
    for domain in both.values():
        assert domain.classes == CLASSES
        assert sizes(domain) == (12, 6, 12)
        assert len(set(domain.paths())) == 30
        assert domain.note.startswith("no official split was found: 40% of every class")
        assert labelled_by_name(domain)


def test_split_folders_in_a_domain_are_used(tmp_path):
    for name in ("photo", "sketch"):
        split_folders(tmp_path / name, val=2, classes=CLASSES)
    both = found(tmp_path)
    assert sizes(both["target"]) == (24, 6, 12)
    assert both["target"].note == ""


def test_class_may_be_named_images(tmp_path):
    for name in ("photo", "sketch"):
        class_folders(tmp_path / name, 10, ("images", "texts"))
    assert found(tmp_path)["source"].classes == ("images", "texts")


def test_several_domains_are_merged(tmp_path):
    domain_folders(tmp_path, ("photo", "cartoon", "sketch"))
    both = found(tmp_path, source=["photo", "cartoon"])
    assert both["source"].name == "photo+cartoon"
    assert sizes(both["source"]) == (27, 9, 24)  # val is a quarter of the 12 left of 20
    assert {name.split("/")[0] for name in both["source"].test.names} == {"photo", "cartoon"}
    assert labelled_by_name(both["source"])


def test_class_subset_with_few_shot_transductive_target(tmp_path):
    target = {"domain": "sketch", "labelled_per_class": 2}
    both = found(domain_folders(tmp_path), target=None, classes=["house", "dog"], transductive=True)
    assert both["source"].classes == ("house", "dog")
    domain = found(tmp_path, target=target, classes=["house", "dog"], transductive=True)["target"]
    assert np.bincount(domain.labelled.labels).tolist() == [2, 2]
    assert len(domain.train) == len(domain.test) == 16
    assert not set(domain.labelled.names) & {*domain.train.names, *domain.test.names}
    assert labelled_by_name(domain)
    assert "transductive: training (without labels) and testing use all" in domain.note


def test_no_target_and_synthetic_target(tmp_path):
    domain_folders(tmp_path)
    assert set(found(tmp_path, target=None)) == {"source"}
    both = found(tmp_path, target={"root": None, "domain": None, "shift": SHIFT})
    assert both["target"].name == "photo_synthetic"


def test_domainnet_lists_define_the_split(tmp_path):
    both = found(domainnet(tmp_path), source="clipart", target="real", val_fraction=0.3)
    for domain in both.values():
        assert sizes(domain) == (4, 2, 2)
        assert domain.note == ""
        assert labelled_by_name(domain)
    assert {path.name[-5] for path in both["source"].test.samples} == {"3"}


def test_missing_list_is_an_error(tmp_path):
    domainnet(tmp_path)
    (tmp_path / "real_test.txt").unlink()
    with pytest.raises(DataError, match=r"found .*/real_train\.txt, but not real_test\.txt; add"):
        found(tmp_path, source="clipart", target="real")


def test_listed_images_that_are_missing_are_reported(tmp_path):
    domainnet(tmp_path)
    gone = next((tmp_path / "clipart" / "zebra").glob("*_1.jpg"))
    gone.unlink()
    message = (
        r"1 of 6 images listed in .*/clipart_train\.txt are missing from .*/clipart: "
        r"clipart/zebra/zebra_1\.jpg; extract clipart again, remove the lists"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path, source="clipart", target="real")
    problems = []
    layout = read_domain(tmp_path / "clipart", on_problem=problems.append)
    assert len(problems) == 1
    assert (len(layout.train), len(layout.test)) == (5, 2)


def test_images_in_both_lists_are_reported(tmp_path):
    domainnet(tmp_path)
    test = tmp_path / "clipart_test.txt"
    train = (tmp_path / "clipart_train.txt").read_text()
    test.write_text(test.read_text() + train.splitlines()[0] + "\n")
    with pytest.raises(
        DataError, match=r"1 image\(s\) listed in .*_test\.txt are also in clipart_tr"
    ):
        found(tmp_path, source="clipart", target="real")
    layout = read_domain(tmp_path / "clipart", on_problem=lambda problem: None)
    assert not set(layout.train.names) & set(layout.test.names)


def test_invalid_list_is_an_error(tmp_path):
    domainnet(tmp_path)
    (tmp_path / "clipart_test.txt").write_text("clipart/zebra/zebra_3.jpg 1\n\nzebra_2.jpg\n")
    message = r"line 3 of the list .*_test\.txt is 'zebra_2\.jpg', not <domain>/<class>/<image>"
    with pytest.raises(DataError, match=message):
        found(tmp_path, source="clipart", target="real")
    (tmp_path / "clipart_test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"cannot read the list .*_test\.txt: 'utf-8' codec.*; do"):
        found(tmp_path, source="clipart", target="real")


def test_missing_domain_setting_lists_the_domains(tmp_path):
    domain_folders(tmp_path)
    message = (
        rf"data\.source\.domain=null selects no domain; {tmp_path} contains art_painting, photo, sk"
        r"etch; set data\.source\.domain=art_painting$"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path, source=None)
    with pytest.raises(DataError, match=r"data\.target\.domain=\[\] selects no domain"):
        found(tmp_path, target=[])
    message = (
        r"data\.target\.domain and data\.target\.shift are all null, .*data\.target\.domain=<name>"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path, target={"domain": None})


def test_unknown_domain_is_an_error(tmp_path):
    domain_folders(tmp_path)
    message = (
        r"data\.target\.domain=skech is not a domain of .*, which contains art_painting, photo, "
        r"sketch; did you mean 'sketch'\?"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path, target="skech")
    message = r"=cartoon is not a domain of .*photo, sketch; set data\.source\.domain=art_painting$"
    with pytest.raises(DataError, match=message):
        found(tmp_path, source="cartoon")


def test_repeated_domain_is_an_error(tmp_path):
    domain_folders(tmp_path)
    with pytest.raises(
        DataError, match=r"domain=\[photo,Photo\] contains the domain photo more than"
    ):
        found(tmp_path, source=["photo", "Photo"])
    message = (
        r"the domain photo is in both data\.source\.domain and data\.target\.domain; "
        r"set data\.target\.domain=art_painting, or data\.target=null"
    )
    with pytest.raises(DataError, match=message):
        found(tmp_path, target=["sketch", "photo"])


def test_domain_names_ignore_case_and_separators(tmp_path):
    domain_folders(tmp_path, ("Real World", "sketch"))
    for name in ("Real World", "RealWorld", "real_world", "real-world"):
        assert found(tmp_path, source=name)["source"].name == "Real World"
    domain_folders(tmp_path, ("real_world",))
    assert found(tmp_path, source="real_world")["source"].name == "real_world"
    with pytest.raises(
        DataError, match=r"=RealWorld is ambiguous: .* contains Real World, real_world; use"
    ):
        found(tmp_path, source="RealWorld")
    message = r'set data\.source\.domain="Real World"$'
    with pytest.raises(DataError, match=message):
        found(tmp_path, source=None)


def test_different_classes_are_an_error(tmp_path):
    domain_folders(tmp_path, ("photo",))
    domain_folders(tmp_path, ("sketch",), classes=("dog", "horses", "house"))
    message = r"missing: horse; extra: horses \(did you mean horse\?\).*data\.target\.domain="
    with pytest.raises(DataError, match=message):
        found(tmp_path)
    with pytest.raises(DataError, match=r"missing: horse; extra: horses"):
        found(tmp_path, source=["photo", "sketch"], target=None)


def test_folder_without_domains_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"<domain>/<class>/\*\.jpg not found with data\.root="):
        found(class_folders(tmp_path, 2), source="dog")


def test_pacs_configuration(tmp_path):
    domain_folders(tmp_path / "PACS", ("photo", "art_painting", "cartoon", "sketch"))
    class_folders(tmp_path / "dogs" / "train", 2)  # another dataset next to it
    both = configured("pacs", tmp_path)
    assert (both["source"].name, both["target"].name) == ("photo", "sketch")
    both = configured("pacs", tmp_path, "data.source.domain=[P,A,C]", "data.target.domain=S")
    assert both["source"].name == "photo+art_painting+cartoon"
    assert "transductive" not in both["target"].note


def test_missing_pacs_names_the_download_page(tmp_path):
    class_folders(tmp_path / "dogs" / "train", 2)
    message = re.escape(
        "pacs ({photo, art_painting, cartoon, sketch}/<class>/*.jpg) not found with data.root="
    )
    with pytest.raises(
        DataError, match=rf"{message}.*/PACS \(absent\).*or download it from https://"
    ):
        configured("pacs", tmp_path)


def test_office31_configuration(tmp_path):
    domain_folders(tmp_path / "office31", ("amazon", "dslr", "webcam"), level="images")
    both = configured("office31", tmp_path)
    assert (both["source"].name, both["target"].name) == ("amazon", "webcam")
    assert len(both["target"].train) == len(both["target"].test) == 30
    both = configured("office31", tmp_path, "data.source.domain=D", "data.target.domain=A")
    assert (both["source"].name, both["target"].name) == ("dslr", "amazon")


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["Real World", "RealWorld", "real_world"])
def test_office_home_configuration(tmp_path, folder):
    domain_folders(tmp_path / "OfficeHome", ("Art", "Clipart", "Product", folder))
    for name in ("R", "Real World", "RealWorld", "real_world"):
        both = configured("office_home", tmp_path, f"data.target.domain='{name}'")
        assert (both["source"].name, both["target"].name) == ("Art", folder)
        assert both["target"].note.startswith("transductive")


def test_visda_has_a_domain_and_a_class_named_train(tmp_path):
    visda(tmp_path / "visda")
    both = configured("visda", tmp_path)
    assert (both["source"].name, both["target"].name) == ("train", "validation")
    for domain in both.values():
        assert domain.classes == ("bus", "train", "truck")
        assert labelled_by_name(domain)
    assert len(both["target"].test) == 30
    both = configured("visda", tmp_path, "data.source.domain=synthetic", "data.target.domain=real")
    assert both["source"].name == "train"


@pytest.mark.slow
@pytest.mark.real
def test_real_pacs_is_read_completely():
    real_data("pacs")
    expected = {"photo": 1670, "art_painting": 2048, "sketch": 3929}
    root = real_data()
    for source, target in (("photo", "sketch"), ("art_painting", "photo")):
        both = configured(
            "pacs", root, f"data.source.domain={source}", f"data.target.domain={target}"
        )
        for name, domain in zip((source, target), both.values(), strict=True):
            assert sum(sizes(domain)) == expected[name] == len(set(domain.paths()))
            assert len(domain.classes) == 7
            assert labelled_by_name(domain)
