import fingerprint


def make(tmp_path, files):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_closure_follows_imports_of_every_kind(tmp_path):
    lib = make(
        tmp_path,
        {
            "a/__init__.py": "",
            "a/one.py": "from a import two\nimport os\n",
            "a/two.py": "from . import three\n",
            "a/three.py": "from b.deep import thing\n",
            "b/__init__.py": "",
            "b/deep.py": "thing = 1\n",
            "b/other.py": "",
        },
    )
    names = {str(path.relative_to(lib)) for path in fingerprint.closure(["a.one"], lib)}
    assert names == {"a/__init__.py", "a/one.py", "a/two.py", "a/three.py", "b/__init__.py", "b/deep.py"}


def test_modules_that_do_not_count_are_passed_over_with_what_they_alone_import(tmp_path):
    files = {
        "low.py": "",
        "keep.py": "import low\nimport deep\n",
        "deep.py": "",
        "high.py": "import keep\nimport low\n",
    }
    lib = make(tmp_path, files)
    found = fingerprint.closure(["high"], lib, without=["keep"])
    assert {path.name for path in found} == {"high.py", "low.py"}


def test_a_module_changes_the_hash_of_those_that_import_it_and_of_no_other(tmp_path):
    lib = make(tmp_path, {"low.py": "x = 1\n", "high.py": "import low\n", "apart.py": "y = 1\n"})
    before = {name: fingerprint.of_modules(name, lib=lib) for name in ("low", "high", "apart")}
    (lib / "low.py").write_text("x = 2\n")
    fingerprint.of_modules.cache_clear()
    after = {name: fingerprint.of_modules(name, lib=lib) for name in ("low", "high", "apart")}
    assert before["low"] != after["low"]
    assert before["high"] != after["high"]
    assert before["apart"] == after["apart"]


def test_text_hash_keeps_boundaries():
    assert fingerprint.of_text("ab", "c") != fingerprint.of_text("a", "bc")


def test_words_annotations_and_layout_are_no_code():
    plain = "def double(x):\n    return 2 * x\n"
    said = '"""A module."""\n\n\ndef double(x: int) -> int:  # twice\n    """Twice as much."""\n    return (2 * x)\n'
    assert fingerprint.of_code(plain) == fingerprint.of_code(said)


def test_values_defaults_and_fields_are_code():
    sources = [
        "class A:\n    x: int\n    y: int = 1\n",
        "class A:\n    z: int\n    y: int = 1\n",
        "class A:\n    x: int\n    y: int = 2\n",
        "class A:\n    y: int = 1\n",
        "class A:\n    x: int\n    y: int = 1\n\n\ndef f(x=1):\n    return 'x'\n",
        "class A:\n    x: int\n    y: int = 1\n\n\ndef f(x=2):\n    return 'x'\n",
        "class A:\n    x: int\n    y: int = 1\n\n\ndef f(x=2):\n    return 'y'\n",
    ]
    assert len({fingerprint.of_code(source) for source in sources}) == len(sources)


def test_the_cpu_is_called_by_its_makers_name_or_as_the_system_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "_CPUS", tmp_path / "cpus")
    assert fingerprint.cpu_name() == (fingerprint.platform.processor() or fingerprint.platform.machine()) != ""
    (tmp_path / "cpus").write_text("processor\t: 0\nmodel name\t: Some  CPU 7\n\nmodel name\t: Another\n")
    assert fingerprint.cpu_name() == "Some CPU 7"
