"""What backdoor attacks and the defenses against them share: triggers, features, input detectors."""
