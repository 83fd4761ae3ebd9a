"""What a measure and a column of a cell's images say, in a plain sentence each, by their names."""

from __future__ import annotations

from ..sections.parsed import ATTRIBUTES

MEASURES = {
    "robust_accuracy": "answered right, and still right under the attack",
    "clean_accuracy": "answered right without an attack",
    "accuracy": "answered right on these pictures",
    "certified_accuracy": "answered right, and proven to stay so within the radius",
    "mean_certified_radius": "how far answers are proven to stay right, on average; 0 where nothing is proven",
    "p_correct_lower_quartile": "a quarter of the pictures have a label that is less likely than this under noise",
    "p_correct_median": "half of the pictures have a label that is less likely than this under noise",
    "p_correct_upper_quartile": "three quarters of the pictures have a label that is less likely than this under noise",
    "mean_votes": "how many noisy copies of a picture were asked about, on average",
    "abstained_rate": "pictures that the certified model gives no answer to",
    "attack_success_rate": "pictures with the trigger that are answered with the attacker's class",
    "triggered_rejected_rate": "pictures with the trigger that the system rejects",
    "clean_rejected_rate": "clean pictures that the system rejects, which is a false alarm",
    "rejected_rate": "attacked pictures that the system rejects; they do not count as answered right",
    "undefined_rate": "pictures answered with numbers that are none (NaN, infinite); they count as wrong",
    "unsettled_rate": "attacked pictures whose answer is a tie or changes from one reading to the next",
    "unanswered_rate": "the right answer is gone and no wrong one came: rejected, tied; it counts as not robust",
    "overturned_rate": "the attack claims a break that the judge, who asks again, does not find",
    "expected_calibration_error": "how far stated confidence is from the share that is right, on average",
    "rms_calibration_error": "the root mean square of how far stated confidence is from the share that is right",
    "mean_psnr": "peak signal-to-noise ratio between the picture and what was made of it; higher is closer",
    "mean_ssim": "structural similarity of what was reconstructed, 1 for the picture itself",
    "label_ok_rate": "reconstructions that were given the true class of their picture",
    "label_found_rate": "true classes that the attacker found, whichever picture they belong to",
    "identified_rate": "reconstructions that are nearer to their own picture than to any other",
    "failed_rate": "attempts that brought nothing back; plain grey stands in their place",
    "mean_federated_accuracy": "how often the model that was trained together is right",
}
"""What a measure is, by its name without a radius."""

COLUMNS = {
    "clean_ok": "answered right without an attack",
    "robust": "answered right, and still right under the attack",
    "prediction": "the class answered without an attack",
    "answer": "the class answered to the attacked picture",
    "in_budget": "whether the attacked picture keeps to what the adversary may change",
    "fooled": "whether the attack reached its goal, within its budget or not; yes too where the clean answer was wrong",
    "distance": "how far the picture was moved, in the norm of the budget; 0 where the clean answer was wrong",
    "queries": "how many answers the attack asked for",
    "rejected": "whether the system rejects the picture",
    "undefined": "whether an answer held numbers that are none (NaN, infinite), which counts as wrong",
    "unsettled": "whether the answer is a tie, or changes from one reading to the next",
    "unanswered": "the right answer is gone and no wrong one came; it counts as not robust",
    "overturned": "the attack claims a break that the judge, who asks again, does not find",
    "rechecked": "so near to a tie that the judge read it again with more digits",
    "robust_direct": "still right under the attack on the system itself",
    "robust_surrogate": "still right under the attack on the system's stand-in with gradients",
    "robust_continued": "still right under the attack that went on from where the stand-in's attack ended",
    "robust_own": "still right under the attack on a network of the adversary's own",
    "below_a_bit": "broken, but no longer once the picture is rounded to 256 levels as in a file",
    "witnessed": "drawn for a second look: asked again in other ways, alone and beside other pictures",
    "two_faced": "whether the second look got another kind of answer than the attack",
    "bent": "whether the second look found a gradient that does not point where the answers go",
    "noise_rejected": "whether a random picture within the budget is rejected",
    "slopes": "whether the gradient that the attack was given last was checked",
    "misled": "whether that gradient was wrong",
    "searched": "left standing by the attack, but broken at a random point of the budget",
    "longer": "drawn to be attacked once more, with twice the steps",
    "longer_fell": "whether it fell to twice the steps",
    "unbounded": "drawn to be attacked once more, with any change allowed",
    "unbounded_stood": "whether it stood although any change was allowed",
    "wrong_share": "of repeated questions to this random system, the share answered wrong; the majority decides",
    "l1": "how much was changed in all: the sum over all pixel values",
    "l2": "the Euclidean length of the change",
    "linf": "the largest change of a pixel value",
    "radius": "how far the answer is proven to stay right; 0 where nothing is proven",
    "p_correct": "how likely the label is under noise, at the least; 0 where another class is predicted, or none",
    "votes": "how many noisy copies of the picture were asked about",
    "abstained": "whether the certified model gives no answer",
    "contradicted": "whether a point inside the proven radius broke it, which proofs rule out",
    "triggered_as_target": "with the trigger, answered with the attacker's class",
    "flagged": "whether the picture with the trigger is rejected",
    "flagged_clean": "whether the clean picture is rejected",
    "eligible": "whether the trigger is meant for this picture and its class is not the attacker's",
    "recovered": "answered with its own class despite the trigger",
    "score_clean": "how suspicious the system finds the clean picture; larger is more",
    "score_triggered": "how suspicious the system finds the picture with the trigger; larger is more",
    "psnr": "peak signal-to-noise ratio in dB between the picture and what was made of it; higher is closer",
    "ssim": "structural similarity of what was reconstructed, 1 for the picture itself",
    "mse": "mean squared difference between the picture and its reconstruction",
    "label_ok": "whether the reconstruction was given the picture's true class",
    "label_found": "whether the attacker found this true class, for whichever picture",
    "identified": "whether the reconstruction is nearer to its own picture than to any other",
    "failed": "whether nothing came back; plain grey stands in its place",
    "federated_accuracy": "how often the model that was trained together is right",
    "control_psnr": "the same ratio against another client's pictures: what a reconstruction of nothing would reach",
    "adversarial": "changed, and it broke the system: what counts when a picture is parsed",
    "all_ok": "kernel size, activation and sparsity all named rightly",
    **{f"{name}_ok": f"whether the network's {name} was named rightly" for name in ATTRIBUTES},
    **{
        f"own_{name}": "how often the observer is right on pictures of its own nets that it has not learnt on"
        for name in (*ATTRIBUTES, "all")
    },
    "own_pictures": "how many pictures these are",
    **{f"others_{name}": "how often it names this value of its own nets that have another" for name in ATTRIBUTES},
    "score": "what the adversary gave it, larger for what it takes for a member of the training set",
    "member": "whether the network was trained on it",
    "other": "whether it was not",
    "shadow_member": "how many of the adversary's own networks that were trained on it are right",
    "shadow_other": "how many of its networks that were not are right",
    "confidence": "the probability that the model states for its answer",
    "watched": "the probability that the model gives to the class that is watched",
}
"""What a column of a cell's images says, of an attack on pictures where scenarios differ."""

OTHERWISE = {
    ("certification", "robust"): "answered right, and proven to stay so within the radius",
    ("shift", "robust"): "answered right on this picture",
    ("shift", "clean_ok"): "answered right on the picture that this one was made from",
    ("shift", "prediction"): "the class answered to this picture",
    ("poisoning", "answer"): "the class answered to the picture with the trigger",
}
"""The same by scenario and column, where one is another."""


def of_column(scenario: str, name: str) -> str:
    """What a column says in a scenario; '' for one of a plugin's own."""
    return OTHERWISE.get((scenario, name), COLUMNS.get(name, ""))
