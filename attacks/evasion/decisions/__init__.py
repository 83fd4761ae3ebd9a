"""Evasion by labels alone: how near is the nearest adversarial picture after so many questions?"""
