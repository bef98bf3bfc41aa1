"""The house style: sizes in inches, spines and grids as they should be, colours apart."""

import matplotlib.colors
import numpy as np
import pytest

from library import figure_style


def test_figures_have_the_size_and_panels_asked_for():
    figure, axes = figure_style.single("title", "x", "y", width=3.0, height=2.0)
    assert tuple(figure.get_size_inches()) == (3.0, 2.0) and len(figure.axes) == 1
    labels = (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel())
    assert labels == ("title", "x", "y")
    figure, panels = figure_style.row(3, width=9.0, height=2.5, sharey=True)
    assert panels.shape == (3,) and tuple(figure.get_size_inches()) == (9.0, 2.5)
    panels[0].set_ylim(0, 7)
    assert panels[2].get_ylim() == (0, 7)
    figure, named = figure_style.mosaic([["a", "b"], ["a", "c"]], 6.0, 3.0, (2, 1))
    assert sorted(named) == ["a", "b", "c"]
    figure.canvas.draw()
    widths = [named[name].get_position().width for name in "ab"]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)  # less what labels take


def test_a_styled_panel_has_two_spines_and_a_grid_below():
    _, axes = figure_style.single("")
    visible = {side: spine.get_visible() for side, spine in axes.spines.items()}
    assert visible == {"top": False, "right": False, "bottom": True, "left": True}
    assert axes.get_axisbelow() is True and axes.get_title(loc="left") == ""
    figure_style.bare(axes, "picture")
    assert not axes.axison and axes.get_title(loc="left") == "picture"


def test_legends_have_no_frame_unless_asked():
    _, axes = figure_style.single("")
    axes.plot([0, 1], label="a")
    figure_style.legend(axes)
    assert not axes.get_legend().get_frame_on()
    figure_style.legend(axes, frameon=True)
    assert axes.get_legend().get_frame_on()


def test_colours_are_dark_enough_to_write_in():
    """Relative luminance, WCAG 2: all but the two light ones have contrast 4.5 on white."""

    def luminance(colour):
        rgb = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    contrast = [1.05 / (luminance(colour) + 0.05) for colour in figure_style.PALETTE]
    assert min(contrast) > 2.5 and sum(c >= 4.5 for c in contrast) >= 4
    assert 1.05 / (luminance(figure_style.INK) + 0.05) > 12
