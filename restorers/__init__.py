"""Restoration of degraded photographs: NAFNet, PromptIR, Swin, or weights of your own.

from restorers import load_restorer
restored = load_restorer("nafnet")(photo)
"""

from restorers.architectures import network_from_state_dict
from restorers.folder import save_restorer
from restorers.registry import Restorer, available, load_restorer
from restorers.restore import restore

__all__ = ["Restorer", "available", "load_restorer", "network_from_state_dict", "restore", "save_restorer"]
