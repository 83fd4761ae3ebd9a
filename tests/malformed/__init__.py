"""Files and specs as nobody should hand them over, made from a seed; benchmarks/hostile.py asks each and measures."""
