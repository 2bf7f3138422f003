"""`tests/run --coverage`: what it counts."""

import coverage


def test_lines_of_code_count_and_unit_tests_do_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coverage, "ROOT", tmp_path)
    source = tmp_path / "src" / "a.rs"
    source.parent.mkdir()
    source.write_text("//! A.\none\ntwo\nthree\n\nfive\nsix\n#[cfg(test)]\nmod tests;\n")
    (tmp_path / "src" / "tests.rs").write_text("//! Tests.\n")
    hits = {1: 7, 2: 0, 3: 0, 4: 1, 6: 0, 7: 2, 9: 5}
    lines = "".join(f"DA:{number},{count}\n" for number, count in hits.items())
    counts, missed = tmp_path / "counts", tmp_path / "missed"
    # The second is of another executable, which has reached line 2.
    counts.write_text(
        f"SF:{source}\n{lines}end_of_record\nSF:{tmp_path}/src/tests.rs\nDA:1,0\nSF:/elsewhere/b.rs\nDA:1,0\n"
        f"SF:{source}\nDA:2,1\nend_of_record\n"
    )
    assert coverage.main(counts, missed) == 0
    assert capsys.readouterr().out == "     4 of      6   66.7 %  src/a.rs\n     4 of      6   66.7 %  all\n"
    assert missed.read_text() == "src/a.rs: 3, 6\n"


def test_nothing_counted_is_an_error(tmp_path):
    (tmp_path / "counts").write_text("")
    assert coverage.main(tmp_path / "counts", tmp_path / "missed") == 1
