import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from lynx.visualization import text as lettering
from lynx.visualization.text import ELLIPSIS, legible, lines, write_lines


@pytest.fixture
def font():
    return legible("siren", 20)[1]


def text_of(rows):
    return ["".join(piece.text for piece in row) for row in rows]


def test_letters_that_no_font_has_become_ones_that_it_has(monkeypatch):
    monkeypatch.setattr(lettering, "ELSEWHERE", ())
    assert legible("siren", 20)[0] == "siren"
    assert legible("café 中", 20)[0] == "cafe ?"


def test_another_font_is_taken_where_a_system_has_it():
    try:
        ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("no DejaVu here")
    text, font = legible("café", 20)
    assert text == "café" and font.getname()[0] == "DejaVu Sans"


def test_lines_are_no_wider_than_asked_and_lose_nothing(font):
    text = "a blue circle and a red triangle and a green cross"
    rows = lines(text, (0, 0), 120, font, 99)
    assert len(rows) > 3 and "".join(text_of(rows)) == text.replace(" ", "")
    assert all(row[-1].left + font.getlength(row[-1].text) <= 120 for row in rows)


def test_a_word_without_spaces_is_cut_to_the_width(font):
    rows = lines("x" * 60, (0, 0), 100, font, 99)
    assert len(rows) > 2 and "".join(text_of(rows)) == "x" * 60
    assert all(font.getlength(row[0].text) <= 100 for row in rows)


def test_the_marked_letters_are_marked_alone(font):
    row = lines("hear sirens.", (5, 10), 300, font, 1)[0]
    assert [(piece.text, piece.marked) for piece in row] == [("hear", False), ("siren", True), ("s.", False)]
    assert row[1].left == pytest.approx(font.getlength("hear") + font.getlength(" "))


@pytest.mark.parametrize("marked, place", [((0, 1), 0), ((40, 41), 1), ((78, 79), 2)])
def test_the_lines_around_the_mark_are_kept(font, marked, place):
    text = " ".join("abcdefghijklmnopqrstuvwxyz0123456789ABCD")  # 40 letters
    rows = lines(text, marked, 60, font, 3)
    assert len(rows) == 3
    assert [any(piece.marked for piece in row) for row in rows].index(True) == place
    assert (text_of(rows)[0][0] == ELLIPSIS) == (place > 0)
    assert (text_of(rows)[-1][-1] == ELLIPSIS) == (place < 2)


def test_what_is_cut_ends_in_an_ellipsis_within_the_width(font):
    (row,) = lines("acameraw ithalong nameindeed", (0, 0), 80, font, 1)
    assert row[-1].text == ELLIPSIS and row[-1].left + font.getlength(ELLIPSIS) <= 80


def test_a_name_breaks_at_its_underscores_and_hyphens(font):
    assert text_of(lines("left_cam-two three", (0, 0), 50, font, 9)) == ["left_", "cam-", "two", "three"]
    assert text_of(lines("left_cam", (0, 0), 300, font, 9)) == ["left_cam"]
    (row,) = lines("a well-known bell", (2, 12), 300, font, 9)
    assert [piece.text for piece in row] == ["a", "well-known", "bell"] and row[1].marked


def test_the_ground_of_a_mark_lies_under_its_word_alone(font):
    sheet = Image.new("RGB", (200, 40))
    rows = lines("hear siren", (5, 10), 200, font, 1)
    write_lines(ImageDraw.Draw(sheet), rows, (10, 5), font, 28, ((255, 255, 255), (0, 0, 0), (251, 191, 36)))
    ground = (np.asarray(sheet) == (251, 191, 36)).all(-1).any(0)
    left = 10 + rows[0][1].left
    assert np.flatnonzero(ground).min() == pytest.approx(left, abs=5)
    assert np.flatnonzero(ground).max() == pytest.approx(left + font.getlength("siren"), abs=5)
