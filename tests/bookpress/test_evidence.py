import json

import pytest

from bookpress import evidence
from bookpress.files import PressError


def test_evidence_tags_are_explained_and_lead_to_their_sources(tmp_path):
    assert evidence.known(tmp_path) == {}
    (tmp_path / "data").mkdir()
    paper = {"evidence": {"blog": "a post", "code": "the <code>"}, "addresses": {"code": "https://example.org"}}
    (tmp_path / "data" / "paper.json").write_text(json.dumps(paper))
    tags = evidence.known(tmp_path)
    assert evidence.as_list(tags) == (
        '<ul><li id="evidence-blog"><b>[blog]</b> a post</li><li id="evidence-code"><b>[code]</b> '
        '<a class="reference external" href="https://example.org">the &lt;code&gt;</a></li></ul>'
    )
    assert evidence.tagged("blog", tags) == "[blog]"
    (tmp_path / "data" / "paper.json").write_text(json.dumps(paper | {"addresses": {"cod": "https://example.org"}}))
    with pytest.raises(PressError, match="address of 'cod', which is no tag"):
        evidence.known(tmp_path)


def test_tags_in_a_text_become_links():
    tags = {"blog": {"means": 'a "post"', "address": "x.html"}, "code": {"means": "the code", "address": "y.html"}}
    assert evidence.linked("Said [blog, code].", tags) == (
        'Said [<a href="x.html" title="a &quot;post&quot;">blog</a>, <a href="y.html" title="the code">code</a>].'
    )
    assert evidence.linked("Said [blogs], [blog code].", tags) == "Said [blogs], [blog code]."
    assert evidence.linked("Said [blog].", {}) == "Said [blog]."
