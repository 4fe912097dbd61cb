"""Names in any script. Only matplotlib's own fonts are used: no result depends on what is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
from matplotlib import font_manager, pyplot
from matplotlib.axes import Axes
from matplotlib.ft2font import FT2Font

import citykit
from citykit.charts import fonts

BUNDLED = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(autouse=True)
def only_the_bundled_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [e for e in manager.ttflist if BUNDLED in Path(e.fname).parents])
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    monkeypatch.setattr(fonts, "_families", {})
    monkeypatch.setattr(fonts, "_nowhere", {})
    monkeypatch.setattr(fonts, "_warned", set())
    yield
    pyplot.close("all")


def drawn(*names: str) -> Axes:
    """Draw these names on bars; as everywhere in the tests, any warning is an error."""
    frame = pd.DataFrame({"name": pd.Series(names, dtype=object), "population": 5})
    ax = citykit.plot_biggest(frame)
    ax.figure.canvas.draw()
    return ax


def families(ax: Axes) -> list[str]:
    return list(ax.get_yticklabels()[0].get_fontfamily())


def test_names_that_the_font_has_are_drawn_in_it() -> None:
    assert families(drawn("Reykjavík", "Αθήνα", "Москва", "القاهرة")) == ["sans-serif"]


def test_letters_that_the_font_lacks_are_drawn_in_another() -> None:
    with pyplot.rc_context({"font.family": "cmr10", "axes.formatter.use_mathtext": True}):
        ax = drawn("Москва", "Θεσσαλονίκη")
    assert families(ax)[0] == "cmr10"
    assert any(name.startswith("DejaVu Sans") for name in families(ax))
    assert "Last Resort High-Efficiency" not in families(ax)


def test_a_font_that_was_installed_meanwhile_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = font_manager.fontManager
    poor = [e for e in manager.ttflist if e.name in ("cmr10", "Last Resort High-Efficiency")]
    monkeypatch.setattr(manager, "ttflist", poor)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(BUNDLED / "DejaVuSerif.ttf")])
    with pyplot.rc_context({"font.family": "cmr10", "axes.formatter.use_mathtext": True}):
        manager._findfont_cached.cache_clear()  # type: ignore[attr-defined]
        assert fonts.legible(["Москва"])["fontfamily"] == ["cmr10", "DejaVu Serif"]
    manager._findfont_cached.cache_clear()  # type: ignore[attr-defined]


def test_letters_that_no_font_has_are_looked_for_once_and_again_in_a_new_font(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []

    def opening(path: str, **options: Any) -> FT2Font:
        opened.append(path)
        return FT2Font(path, **options)

    with pytest.warns(UserWarning, match="has the Thai characters"):
        fonts.legible(["กรุงเทพ"])
    monkeypatch.setattr(fonts, "FT2Font", opening)
    fonts.legible(["กรุงเทพ"])
    assert str(BUNDLED / "DejaVuSerif.ttf") not in opened  # only the fonts of the chart
    font_manager.fontManager.addfont(BUNDLED / "DejaVuSerif.ttf")  # as a user adds one that was downloaded
    fonts.legible(["กรุงเทพ"])
    assert str(BUNDLED / "DejaVuSerif.ttf") in opened


@pytest.mark.parametrize(
    ("name", "script", "font", "package"),
    [
        ("北京", "Chinese, Japanese or Korean", "Noto Sans CJK", "fonts-noto-cjk"),
        ("ソウル", "Chinese, Japanese or Korean", "Noto Sans CJK", "fonts-noto-cjk"),
        ("서울", "Chinese, Japanese or Korean", "Noto Sans CJK", "fonts-noto-cjk"),
        ("दिल्ली", "Devanagari", "Noto Sans Devanagari", "fonts-noto-core"),
        ("กรุงเทพ", "Thai", "Noto Sans Thai", "fonts-noto-core"),
        ("አዲስ አበባ", "Ethiopic", "Noto Sans Ethiopic", "fonts-noto-core"),
        ("ꯏꯝꯐꯥꯜ", "Meetei Mayek", "Noto Sans Meetei Mayek", "fonts-noto-core"),
        ("ལྷ་ས", "Tibetan", "Noto Serif Tibetan", "fonts-noto-core"),
        ("🗼", "symbol", "Symbola", "fonts-symbola"),
        ("\uff2c\uff21", "Chinese, Japanese or Korean", "Noto Sans CJK", "fonts-noto-cjk"),
        ("ー、", "Chinese, Japanese or Korean", "Noto Sans CJK", "fonts-noto-cjk"),
        ("काशी।", "Devanagari", "Noto Sans Devanagari", "fonts-noto-core"),
        ("Ꞓꟶ", "Latin", "Noto Sans", "fonts-noto-core"),
    ],
)
@pytest.mark.slow
def test_a_script_without_a_font_is_one_warning_that_says_what_to_install(
    name: str, script: str, font: str, package: str
) -> None:
    with pytest.warns(UserWarning, match=f"has the {script} characters") as caught:
        drawn(name, f"{name} 2")
    assert len(caught) == 1
    said = str(caught[0].message)
    assert f"Install {font} " in said
    assert f"apt install {package};" in said
    assert caught[0].filename == __file__  # the line that drew
    assert families(drawn(name))[-1] == "Last Resort High-Efficiency"  # no second warning, nor matplotlib's


def test_one_warning_for_all_scripts_of_a_chart_and_one_for_a_new_script_later() -> None:
    with pytest.warns(
        UserWarning, match=r"Ethiopic, Thai characters .* Sans Ethiopic, Noto Sans Thai "
    ) as caught:
        drawn("አዲስ", "กรุงเทพ")
    with pytest.warns(UserWarning, match="has the Devanagari characters") as later:
        drawn("አዲስ", "दिल्ली")
    assert (len(caught), len(later)) == (1, 1)


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("Reykjavík", "Latin"), ("Москва", "Cyrillic"), ("Αθήνα", "Greek"), ("القاهرة", "Arabic"),
        ("กรุงเทพ", "Thai"), ("दिल्ली", "Devanagari"), ("北京", "Chinese, Japanese or Korean"),
    ],
)  # fmt: skip
def test_every_letter_of_a_name_is_of_one_script(name: str, script: str) -> None:
    """Vowel signs and marks included."""
    assert {fonts._script(letter) for letter in name} == {script}


def test_a_name_of_several_scripts_lists_each_that_no_font_has() -> None:
    said = "Chinese, Japanese or Korean, Devanagari, Thai characters of names such as '北京 Москва دلي'"
    with pytest.warns(UserWarning, match=said) as caught:
        ax = drawn("北京 Москва دلي", "กรุงเทพ दिल्ली")
    assert len(caught) == 1
    assert families(ax) == ["sans-serif", "Last Resort High-Efficiency"]


def test_for_characters_of_no_script_no_font_is_recommended() -> None:
    with pytest.warns(UserWarning, match="private-use") as caught:
        drawn("\ue000")
    assert "Install" not in str(caught[0].message)


def test_invisible_characters_need_no_font() -> None:
    assert families(drawn("a\u200db\ufe0f \u200fc\u00ad")) == ["sans-serif"]


def test_a_font_file_that_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = font_manager.fontManager
    gone = font_manager.FontEntry(
        fname="/gone.ttf", name="Gone", style="normal", variant="normal", weight=400
    )
    monkeypatch.setattr(manager, "ttflist", [*manager.ttflist, gone])
    with pytest.warns(UserWarning, match="Thai") as caught:
        ax = drawn("กรุงเทพ")
    assert len(caught) == 1
    assert families(ax) == ["sans-serif", "Last Resort High-Efficiency"]  # and not Gone


@pytest.mark.slow
def test_every_text_of_a_chart_is_drawn_without_a_warning_of_matplotlib(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": ["東京", "東京"], "country": ["日本", "_"], "population": [2, 1]})
    frame.attrs["source"] = "東京 $x_$"
    with pytest.warns(UserWarning, match="Install Noto Sans CJK ") as caught:
        ax = citykit.plot_biggest(frame)
    for kind in ("png", "svg", "pdf"):
        ax.figure.savefig(tmp_path / f"chart.{kind}")  # type: ignore[union-attr]
    assert len(caught) == 1
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["日本", "_"]
