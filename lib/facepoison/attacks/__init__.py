"""Poisons: changes to pictures that a trainer cannot learn a face from, each after its published attack."""
