"""What the tests of all attacks start from."""

import pytest
from tiny import tiny_extractor, tiny_pictures


@pytest.fixture(scope="module")
def surrogates():
    return [tiny_extractor(0), tiny_extractor(1)]


@pytest.fixture(scope="module")
def clean():
    return tiny_pictures(4)
