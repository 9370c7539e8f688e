"""Tests of the commands that read a volume without mounting it."""
