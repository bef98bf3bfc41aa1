"""Tests of the functions of one study."""
