"""The publications of the methods and attacks: for the methods paragraph, and as BibTeX."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Publication:
    """A publication. `venue`: the BibTeX fields that say where and when it appeared."""

    cited: str  # as texts cite it, e.g. `Madry et al. 2018`
    kind: str  # of the BibTeX entry
    authors: str
    title: str
    venue: dict[str, str] = field(default_factory=dict)

    def bibtex(self, key: str) -> str:
        """Returns the BibTeX entry."""
        fields = {"author": self.authors, "title": f"{{{self.title}}}", **self.venue}
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{self.kind}{{{key},\n{body}\n}}"


def _conference(cited: str, authors: str, title: str, name: str, year: int) -> Publication:
    return Publication(cited, "inproceedings", authors, title, {"booktitle": name, "year": str(year)})


_ICLR = "International Conference on Learning Representations"
_ICML = "International Conference on Machine Learning"
_ECCV = "European Conference on Computer Vision"
_CVPR = "IEEE/CVF Conference on Computer Vision and Pattern Recognition"
SURVEY, AWP = "dong2024survey", "wu2020adversarial"

# By the key of the BibTeX entry.
PUBLICATIONS: dict[str, Publication] = {
    SURVEY: Publication(
        "Dong et al. 2024",
        "article",
        "Dong, Junhao and Chen, Junxi and Xie, Xiaohua and Lai, Jianhuang and Chen, Hao",
        "Survey on Adversarial Attack and Defense for Medical Image Analysis: Methods and Challenges",
        {"journal": "ACM Computing Surveys", "volume": "57", "number": "3", "year": "2024", "doi": "10.1145/3702638"},
    ),
    "goodfellow2015explaining": _conference(
        "Goodfellow et al. 2015",
        "Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian",
        "Explaining and Harnessing Adversarial Examples",
        _ICLR,
        2015,
    ),
    "madry2018towards": _conference(
        "Madry et al. 2018",
        "Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian",
        "Towards Deep Learning Models Resistant to Adversarial Attacks",
        _ICLR,
        2018,
    ),
    "carlini2017towards": _conference(
        "Carlini and Wagner 2017",
        "Carlini, Nicholas and Wagner, David",
        "Towards Evaluating the Robustness of Neural Networks",
        "IEEE Symposium on Security and Privacy",
        2017,
    ),
    "croce2020reliable": _conference(
        "Croce and Hein 2020a",
        "Croce, Francesco and Hein, Matthias",
        "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
        _ICML,
        2020,
    ),
    "croce2020minimally": _conference(
        "Croce and Hein 2020b",
        "Croce, Francesco and Hein, Matthias",
        "Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
        _ICML,
        2020,
    ),
    "andriushchenko2020square": _conference(
        "Andriushchenko et al. 2020",
        "Andriushchenko, Maksym and Croce, Francesco and Flammarion, Nicolas and Hein, Matthias",
        "Square Attack: a Query-Efficient Black-Box Adversarial Attack via Random Search",
        _ECCV,
        2020,
    ),
    "guo2019simple": _conference(
        "Guo et al. 2019",
        "Guo, Chuan and Gardner, Jacob R. and You, Yurong and Wilson, Andrew Gordon and Weinberger, Kilian Q.",
        "Simple Black-box Adversarial Attacks",
        _ICML,
        2019,
    ),
    "gu2022segpgd": _conference(
        "Gu et al. 2022",
        "Gu, Jindong and Zhao, Hengshuang and Tresp, Volker and Torr, Philip H. S.",
        "SegPGD: An Effective and Efficient Adversarial Attack for Evaluating and Boosting Segmentation Robustness",
        _ECCV,
        2022,
    ),
    "agnihotri2024cospgd": _conference(
        "Agnihotri et al. 2024",
        "Agnihotri, Shashank and Jung, Steffen and Keuper, Margret",
        "CosPGD: an efficient white-box adversarial attack for pixel-wise prediction tasks",
        _ICML,
        2024,
    ),
    "croce2024towards": _conference(
        "Croce et al. 2024",
        "Croce, Francesco and Singh, Naman D. and Hein, Matthias",
        "Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation Models",
        _ECCV,
        2024,
    ),
    "dong2018boosting": _conference(
        "Dong et al. 2018",
        "Dong, Yinpeng and Liao, Fangzhou and Pang, Tianyu and Su, Hang and Zhu, Jun and Hu, Xiaolin and Li, Jianguo",
        "Boosting Adversarial Attacks with Momentum",
        _CVPR,
        2018,
    ),
    "xie2019improving": _conference(
        "Xie et al. 2019",
        "Xie, Cihang and Zhang, Zhishuai and Zhou, Yuyin and Bai, Song and Wang, Jianyu and Ren, Zhou and Yuille,"
        " Alan L.",
        "Improving Transferability of Adversarial Examples with Input Diversity",
        _CVPR,
        2019,
    ),
    "zhang2019theoretically": _conference(
        "Zhang et al. 2019",
        "Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric P. and El Ghaoui, Laurent and Jordan,"
        " Michael I.",
        "Theoretically Principled Trade-off between Robustness and Accuracy",
        _ICML,
        2019,
    ),
    "wang2020improving": _conference(
        "Wang et al. 2020",
        "Wang, Yisen and Zou, Difan and Yi, Jinfeng and Bailey, James and Ma, Xingjun and Gu, Quanquan",
        "Improving Adversarial Robustness Requires Revisiting Misclassified Examples",
        _ICLR,
        2020,
    ),
    "rade2022reducing": _conference(
        "Rade and Moosavi-Dezfooli 2022",
        "Rade, Rahul and Moosavi-Dezfooli, Seyed-Mohsen",
        "Reducing Excessive Margin to Achieve a Better Accuracy vs. Robustness Trade-off",
        _ICLR,
        2022,
    ),
    "xu2021towards": Publication(
        "Xu et al. 2021",
        "article",
        "Xu, Mengting and Zhang, Tao and Li, Zhongnian and Liu, Mingxia and Zhang, Daoqiang",
        "Towards evaluating the robustness of deep diagnostic models by adversarial attack",
        {"journal": "Medical Image Analysis", "volume": "69", "pages": "101977", "year": "2021"},
    ),
    AWP: _conference(
        "Wu et al. 2020",
        "Wu, Dongxian and Xia, Shu-Tao and Wang, Yisen",
        "Adversarial Weight Perturbation Helps Robust Generalization",
        "Advances in Neural Information Processing Systems",
        2020,
    ),
}
# What texts call each training method, and its publications.
METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "nat": ("natural training", ()),
    "pgdat": ("PGD adversarial training", ("madry2018towards",)),
    "trades": ("TRADES", ("zhang2019theoretically",)),
    "mart": ("MART", ("wang2020improving",)),
    "hat": ("HAT", ("rade2022reducing",)),
    "mpadvt": ("MPAdvT", ("xu2021towards",)),
    "maadvt": ("MAAdvT", ("xu2021towards",)),
}
_AUTO, _PGD = ("croce2020reliable",), ("madry2018towards",)
# Likewise of each attack.
ATTACK_TEXTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fgsm": ("FGSM", ("goodfellow2015explaining",)),
    "pgd": ("PGD", _PGD),
    "pgd-margin": ("PGD on the labels' margins", _PGD),
    "pgd-dice": ("PGD on the soft Dice loss", _PGD),
    "cw": ("PGD on the margin loss of Carlini and Wagner", ("carlini2017towards", *_PGD)),
    "aa": ("AutoAttack", (*_AUTO, "croce2020minimally", "andriushchenko2020square")),
    "apgd-ce": ("Auto-PGD on the cross-entropy", _AUTO),
    "apgd-t": ("targeted Auto-PGD", _AUTO),
    "fab-t": ("targeted FAB", ("croce2020minimally",)),
    "square": ("Square", ("andriushchenko2020square",)),
    "simba": ("SimBA", ("guo2019simple",)),
    "apgd": ("Auto-PGD", _AUTO),
    "apgd-margin": ("Auto-PGD on the labels' margins", _AUTO),
    "apgd-dice": ("Auto-PGD on the soft Dice loss", _AUTO),
    "pgd-finding": ("PGD on each finding by itself", _PGD),
    "segpgd": ("SegPGD", ("gu2022segpgd",)),
    "cospgd": ("CosPGD", ("agnihotri2024cospgd",)),
    "sea": ("SEA", ("croce2024towards",)),
    "mifgsm": ("MI-FGSM", ("dong2018boosting",)),
    "dimifgsm": ("MI-FGSM with input diversity", ("dong2018boosting", "xie2019improving")),
}
