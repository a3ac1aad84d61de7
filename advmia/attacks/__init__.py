"""The attacks: their registry `ATTACKS`, and functions that make one for a network and images of your own.

`attack = advmia.attacks.pgd(eps=8 / 255)`, then `x_adv = attack(model, x, y)`.
"""

from advmia.attacks.own import OwnAttack as OwnAttack
from advmia.attacks.own import apgd_ce as apgd_ce
from advmia.attacks.own import apgd_t as apgd_t
from advmia.attacks.own import attack_named as attack_named
from advmia.attacks.own import autoattack as autoattack
from advmia.attacks.own import cospgd as cospgd
from advmia.attacks.own import cw as cw
from advmia.attacks.own import dimifgsm as dimifgsm
from advmia.attacks.own import fab_t as fab_t
from advmia.attacks.own import fgsm as fgsm
from advmia.attacks.own import mifgsm as mifgsm
from advmia.attacks.own import pgd as pgd
from advmia.attacks.own import pgd_finding as pgd_finding
from advmia.attacks.own import sea as sea
from advmia.attacks.own import segpgd as segpgd
from advmia.attacks.own import simba as simba
from advmia.attacks.own import square as square
from advmia.attacks.registry import ATTACKS as ATTACKS
from advmia.attacks.registry import AttackSpec as AttackSpec
from advmia.attacks.registry import attacks_on as attacks_on
from advmia.attacks.registry import square_memory as square_memory
from advmia.attacks.registry import stream_scope as stream_scope
