"""Invented names: the lettering on the goods and the catalogue's product names."""

from __future__ import annotations

import numpy as np

from demo.goods.seeds import generator

ONSETS = ("V", "L", "M", "R", "S", "T", "D", "B", "C", "F", "G", "N", "P", "Z", "BR", "TR", "CH", "VR", "GL", "ST")
VOWELS = ("A", "E", "I", "O", "U", "AU", "EA", "IO")
CODAS = ("", "L", "N", "R", "S", "X", "RT", "ND", "LL", "NT")
ENDINGS = ("", "", "E", "O", "A", "ET", "INI", "ARD", "OIS", "ELLE", "IER")
MODELS = {
    "bag": ("Tote", "Satchel", "Flap", "Top Handle", "Messenger", "Clutch"),
    "watch": ("Chronomètre", "Automatic", "Diver", "Calendar", "Dress", "Pilot"),
    "sneaker": ("Runner", "Court", "Low", "Trainer", "Retro", "Racer"),
}


def brand_word(rng: np.random.Generator) -> str:
    """An invented brand of 4 to 8 capitals."""
    while True:
        parts = (ONSETS, VOWELS, CODAS, ONSETS, VOWELS, CODAS, ENDINGS)
        word = "".join(str(options[int(rng.integers(len(options)))]) for options in parts)
        if 4 <= len(word) <= 8:
            return word


def product_name(category: str, seed: int) -> str:
    """The catalogue name of a SKU, such as 'Velora Top Handle 27'."""
    word = brand_word(generator("brand", category, seed))
    rng = generator("model", category, seed)
    models = MODELS[category]
    return f"{word.title()} {models[int(rng.integers(len(models)))]} {int(rng.integers(10, 99))}"
