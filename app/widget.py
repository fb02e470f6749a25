"""CircuitsVis' attention widgets, as a Streamlit component: loaded once, then given other numbers."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import circuitsvis
import streamlit as st
import xarray as xr
from streamlit.components.v1 import declare_component
from streamlit.components.v1.custom_component import CustomComponent

_BUNDLE = Path(circuitsvis.__file__).parent / "dist" / "cdn" / "iife.js"
_ELEMENTS = {"patterns": ("AttentionPatterns", 420, 0), "heads": ("AttentionHeads", 640, 28)}
"""Name, pixels, and pixels a token: the widgets do not say how high they are."""
_PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>CircuitsVis</title></head>
<body style="background: white; font-family: sans-serif"><div id="shown"></div>
<script src="bundle.js"></script><script>
const tell = (type, more) => parent.postMessage({isStreamlitMessage: true, type: "streamlit:" + type, ...more}, "*")
addEventListener("message", event => {
  if (event.source !== parent || event.data.type !== "streamlit:render") return
  const {element, props, height} = event.data.args
  tell("setFrameHeight", {height})
  CircuitsVis.render("shown", CircuitsVis[element], props)
})
tell("componentReady", {apiVersion: 1})
</script></body></html>"""


def attention_widget(
    kind: Literal["patterns", "heads"], attention: xr.DataArray, tokens: Sequence[str], key: str
) -> None:
    """Attention patterns, or heads, that answer to the mouse; which head is looked at stays as the numbers change.

    Args:
        kind: of widget.
        attention: over head, query and key.
        tokens: that are looked at.
        key: no other widget on the page has it.
    """
    props = {
        "tokens": [token.replace("<", "‹").replace(">", "›") for token in tokens],
        "attention": attention.to_numpy().tolist(),
        "attentionHeadNames": [str(head) for head in attention["head"].to_numpy()],
    }
    element, height, a_token = _ELEMENTS[kind]
    height += a_token * len(tokens)
    _component()(element=element, props=props, height=height, key=f"{key} {kind}")


@st.cache_resource(show_spinner=False)
def _component() -> CustomComponent:
    """Page and script of the widgets, in a folder that the server shows: nothing is fetched from elsewhere."""
    folder = Path(tempfile.mkdtemp(prefix="interp-arith-widget-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copy(_BUNDLE, folder / "bundle.js")
    (folder / "index.html").write_text(_PAGE, encoding="utf-8")
    return declare_component("circuitsvis", folder)
