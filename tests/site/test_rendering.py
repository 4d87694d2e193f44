"""The parts of the site's hooks that need no build."""

import browser
import execution
import mathfont
import mathml
import nbformat
import pytest
import rendering
from mkdocs.exceptions import PluginError

CELL = """\
#| alt: A line.
#| caption: >-
#|   It goes up,
#|   all the way.
x = 1  #| not an option
"""


def test_options_are_the_first_lines_as_yaml():
    assert execution.options(CELL) == {"alt": "A line.", "caption": "It goes up, all the way."}
    assert execution.without_options(CELL) == "x = 1  #| not an option"
    assert execution.options("x = 1") == {}


@pytest.mark.parametrize("text", ["{{ x:.2f }}", "{{ x:.2f}}"])
def test_expressions_are_found_with_and_without_a_space_at_the_end(text):
    assert execution.EXPRESSION.findall(f"a {text} b") == ["x:.2f"]


def test_a_warning_on_a_page_names_no_file_of_the_machine_that_built_it():
    text = "/tmp/ipykernel_9/3.py:16: LabWarning: using the 10,000 embedded digits\n  mnist = lab.load_mnist()\n"
    output = nbformat.v4.new_output("stream", name="stderr", text=text)
    page = rendering.Rendered({}, "")
    rendering._output(page, output, {}, "page", "01")
    assert page.outputs == ['<pre class="nb-note" tabindex="0">LabWarning: using the 10,000 embedded digits\n</pre>']


def test_latex_braces_are_no_expression():
    assert execution.EXPRESSION.findall(r"$\frac{{a}}{{b}}$") == []


def test_cells_start_where_the_script_says(tmp_path):
    script = tmp_path / "page.py"
    script.write_text("# ---\n# jupyter:\n# ---\n\n# %% [markdown]\n# # T\n\n# %%\nx = 1\n")
    assert execution.cell_lines(script) == [6, 9]


@pytest.mark.parametrize(
    ("markdown", "plain"),
    [
        ("[`fit`][lab.training.fit]", "`fit`"),
        ('!!! question "Predict"\n    What?\n\nAfter', "> **Predict**\n>\n> What?\n\nAfter"),
        ('??? success "Answer"\n    This.\n', "<details><summary>Answer</summary>\n\nThis.\n\n</details>\n\n"),
        ("[a](02_shifting.py#b)", "[a](02_shifting.ipynb#b)"),
        ("[a](../glossary.md#b)", "[a](../glossary.html#b)"),
        ("[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
        (r"$\norm{a_{b}} + \norm{\norm{c}}$", r"$\lVert a_{b} \rVert + \lVert \lVert c \rVert \rVert$"),
    ],
)
def test_downloads_are_plain_markdown(markdown, plain):
    assert rendering._plain_markdown(markdown, "") == plain


def test_links_of_a_download_lead_to_the_site_where_its_address_is_known():
    plain = rendering._plain_markdown(
        "[a](../glossary.md#b) [c](02_shifting.py)", "https://example.org/walkthroughs/x.html"
    )
    assert plain == (
        "[a](https://example.org/walkthroughs/../glossary.html#b) [c](https://example.org/walkthroughs/02_shifting.html)"
    )


def test_figures_get_the_colour_of_the_page_and_ids_of_their_own():
    path = '<path id="m" d="M 1.2345 2" fill="#0a0b0c"/><use href="#m"/>'
    svg = f'<?xml?><svg width="9pt" height="8pt"><g id="unused"/>{path}</svg>'
    assert rendering._svg(svg, "page-1") == (
        '<svg width="9" height="8"><g/><path id="figure-page-1-m" d="M 1.2 2" fill="currentColor"/>'
        '<use href="#figure-page-1-m"/></svg>'
    )


def test_formulas_become_mathml_and_bad_ones_name_the_page_and_the_line(tmp_path):
    (tmp_path / "page.md").write_text("# T\n\nText $\\frac{a$.\n")
    extension = mathml.MathMLExtension()
    extension.docs, extension.page = tmp_path, "page.md"
    convert = mathml._MathML(extension)
    assert "<mi>a</mi>" in convert.run(r'<span class="arithmatex">\(a\)</span>')
    with pytest.raises(PluginError, match=r"docs/page.md:3: bad formula"):
        convert.run(r'<span class="arithmatex">\(\frac{a\)</span>')


def test_the_math_font_has_italics_for_single_letters_only():
    found = mathfont.characters(["<math><mi>h</mi><mi>x</mi><mtext>word</mtext></math> y"])
    assert {0x210E, 0x1D465, ord("w")} <= found
    assert 0x1D464 not in found  # italic w
    assert ord("y") not in found


def test_without_a_browser_and_without_a_way_to_install_one_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(browser, "find", lambda: None)
    monkeypatch.setattr(browser.subprocess, "run", lambda *_, **__: None)
    with pytest.raises(SystemExit, match="need Chromium: install it"):
        browser.install()
