"""The words of a report that need saying, each with a plain sentence; only those that it uses."""

from __future__ import annotations

from collections.abc import Sequence

from ..render.document import Section, terms_of

TERMS = {
    "robust accuracy": "the share of images that are classified right under every attack of a threat at once; wrong "
    "unattacked counts as wrong.",
    "foreign pictures": "pictures kept of attacks on other systems of the run, put to this one; nothing was attacked "
    "anew. What they break counts as broken.",
    "certified accuracy": "the share of images that are right and for which a proof says that no change within the "
    "radius moves the answer.",
    "linf": "how far an image may be changed: no pixel value by more than the radius, of a range from 0 to 1 (8/255 "
    "are 8 of the 255 levels of a screen).",
    "l2": "how far an image may be changed: the Euclidean length of the change, pixel values from 0 to 1.",
    "screening": "too few images, steps or questions for a number to be published; what is missing stands beside it.",
    "SOUND": "of all attacks at once: no check doubts the one that decides, and two kinds of attack of sufficient "
    "strength were played; of one attack: no check raised anything on it, and its adversary's attacks together are "
    "that strong. SOUND and CERTIFIED alone are ranked.",
    "weak alone": "one attack below its card's least, or noise: its number says nothing by itself, the other attacks "
    "of its threat carry the grade.",
    "PROVISIONAL": "a check raised a warning: the number is an upper bound (≤), the true one may be far lower.",
    "INVALID": "a check failed: the number is struck through and says nothing.",
    "refused": "the attack needs what the threat does not grant, or does not fit; no number, which is not 0.",
    "unmeasured": "the defense hides what the attack needs, so a number would flatter it; no number, which is not 0.",
    "inert": "the defense is not passed by this adversary, so the undefended number stands for it.",
    "rank": "from the best; a range where a paired test on the same images cannot tell systems apart.",
    "p (Holm)": "how likely a difference this large is by chance, corrected for all comparisons of the table.",
    "local optimality": "how much of the way from finding nothing to the nearest break by any attack of the run one "
    "attack comes, over all radii: 1 is nowhere farther.",
    "mCE": "mean corruption error: errors in per cent of AlexNet's, averaged over the corruptions; lower is better.",
    "gap": "accuracy on the shifted images minus that on clean images of the same classes, in points.",
    "ECE": "expected calibration error: how far stated confidence and the share that is right lie apart, averaged "
    "over the images.",
    "RMS cal.": "root mean square calibration error: the same as a root mean square, where large ones count more.",
    "effective robustness": "accuracy under a shift beyond what clean accuracy alone predicts, by the line through the "
    "systems of this run.",
    "shape bias": "of answers by the shape or by the texture of pictures whose two cues contradict each other, the "
    "share by shape.",
    "insertion": "the mean probability of the answered class while pixels come back into a blurred picture in the "
    "order of a map; higher is better.",
    "deletion": "the same while pixels become the picture's mean colour in that order; lower is better.",
    "DiffROAR": "how much more a network trained anew is right from the pixels that maps rank first than from those "
    "they rank last, in points; above 0, maps rank first what can be learnt from.",
    "attack success": "the share of images with the trigger that get the answer the poisoner wants.",
    "C-Acc": "accuracy on clean images, of a model that was trained on poisoned data.",
    "ASR": "attack success: the share of images with the trigger that get the answer the poisoner wants.",
    "R-Acc": "robust accuracy: the share of images with the trigger that get their own class nonetheless.",
    "DER": "what a defense takes from the attack success less what it costs of clean accuracy: 50 % is no change.",
    "AUROC": "how well a detector's score tells triggered from clean images: 50 % is chance, 100 % is always.",
    "PSNR": "how near a rebuilt picture comes to the original, in decibels; above 20 or so it is recognised.",
    "SSIM": "how alike two pictures look in structure: 1 is the same picture.",
    "identified": "the share of rebuilt pictures that are nearer to their own original than to any other.",
}


def glossary(sections: Sequence[Section]) -> tuple[tuple[str, str], ...]:
    """The terms that titles, leads, columns and the entries of these sections use, with what they mean."""
    used = {term for section in sections for term in terms_of(section, tuple(TERMS.items()))}
    return tuple((term, meaning) for term, meaning in TERMS.items() if term in used)
