"""Sections of every run, whatever was played: its checks, what it cost and was made with, what trainings found."""
