"""What each check of a test means when it warns, and what to do then, in plain words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckText:
    """The texts about one check."""

    meaning: str
    advice: str


# By the check's name, in the order in which tests print them.
CHECKS: dict[str, CheckText] = {
    "base rate": CheckText(
        "The clean score is no better than that of one answer for every image. Such a network looks robust, because no"
        " attack changes its answer.",
        "Do not report its robustness. Train longer, or with another learning rate or weight decay, and look at the"
        " training curves.",
    ),
    "black-box": CheckText(
        "An attack that sees only the outputs is stronger than attacks that use gradients: the gradients mislead.",
        "Attack with aa or apgd-t, with more steps or --restarts, and report the strongest attack.",
    ),
    "transfer": CheckText(
        "Images made on another network fool this one more often than those made on itself: its own gradients mislead.",
        "Attack with aa or apgd-t, with more steps or --restarts, and report the strongest attack, transfer included.",
    ),
    "eps order": CheckText(
        "A larger eps leaves a better score, although it allows every image that the smaller eps allows: the attack has"
        " not found the worst image.",
        "Attack with more steps or --restarts. With few images, test more of them.",
    ),
    "large eps": CheckText(
        "Images withstand an eps of a quarter of the grey range, at which an attack can show almost anything: the"
        " attack does not work on this network.",
        "Attack with aa or square. If they leave few images right at this eps too, the scores of small eps can be"
        " trusted more.",
    ),
    "zero gradients": CheckText(
        "The loss has no input gradient at many images, so that gradient attacks leave these as they are.",
        "Attack with square, or with apgd-t, whose loss does not vanish. Look for a step without a gradient in the"
        " network, such as rounding.",
    ),
    "saturation": CheckText(
        "Logits are so large that the loss hardly depends on them in float32, or differ too little to mean anything.",
        "Attack with cw, apgd-t or aa, whose losses do not depend on the logits' scale. Train with more weight decay.",
    ),
    "outputs": CheckText(
        "The outputs look like probabilities, or are not finite. The loss would take the softmax a second time.",
        "Give the network without its last softmax or sigmoid. Weights with outputs that are not finite are of no use.",
    ),
    "inputs": CheckText(
        "Pixels are outside [0, 1], in which eps is measured.",
        "Normalise inside the network, with --normalize, and give images in [0, 1].",
    ),
    "mode": CheckText(
        "A part of the network is in train mode while it is scored, or two passes over the same images differ.",
        "Call .eval(), and switch off what is random at test time, such as dropout.",
    ),
    "training": CheckText(
        "The network was trained on other images or at another size than it is tested on, or its training had a"
        " warning.",
        "Test with the data set and the --imgSize of the training, or say so where the numbers are reported.",
    ),
}
