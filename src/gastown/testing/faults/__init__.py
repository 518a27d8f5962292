"""A fault laboratory: a town at work for virtual hours, faults that strike it, and what must hold afterwards.

```python
async def test_a_worker_that_is_down_for_ten_minutes_loses_nothing(open_town):
    async with open_lab(open_town) as lab:
        await FAULTS["worker_down"].strike(lab)
        await trio.sleep(600)
        await FAULTS["worker_down"].heal(lab)
        await lab.recover()
        await lab.check()
```
"""

from __future__ import annotations

from gastown.testing.faults.lab import BYSTANDER, MAYOR, VICTIM, Lab, open_lab
from gastown.testing.faults.table import FAULTS, Fault, fault

__all__ = ["BYSTANDER", "FAULTS", "MAYOR", "VICTIM", "Fault", "Lab", "fault", "open_lab"]
