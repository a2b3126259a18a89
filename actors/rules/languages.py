"""Language tags (BCP 47): language, script, region, variants. What could be a provider's name counts only if it is registered."""

from __future__ import annotations

import re

LANGUAGE = re.compile(r"[a-z]{2,3}\Z")
"""ISO 639, by its shape alone: there are 8000."""

AREA = re.compile(r"[0-9]{3}\Z")
"""A region by its number, such as 419 for Latin America."""

DATED = re.compile(r"[0-9][a-z0-9]{3}\Z")
"""A variant of four, such as 1996 for today's German spelling."""

SCRIPTS = frozenset(
    """
    adlm afak aghb ahom arab aran armi armn avst bali bamu bass batk beng bhks blis bopo brah brai bugi buhd cakm cans cari cham cher
    chrs cirt copt cpmn cprt cyrl cyrs deva diak dogr dsrt dupl egyd egyh egyp elba elym ethi gara geok geor glag gong gonm goth gran
    grek gujr gukh guru hanb hang hani hano hans hant hatr hebr hira hluw hmng hmnp hrkt hung inds ital jamo java jpan jurc kali kana
    kawi khar khmr khoj kitl kits knda kore kpel krai kthi lana laoo latf latg latn leke lepc limb lina linb lisu loma lyci lydi mahj
    maka mand mani marc maya medf mend merc mero mlym modi mong moon mroo mtei mult mymr nagm nand narb nbat newa nkdb nkgb nkoo nshu
    ogam olck onao orkh orya osge osma ougr palm pauc pcun pelm perm phag phli phlp phlv phnx piqd plrd prti psin ranj rjng rohg roro
    runr samr sara sarb saur sgnw shaw shrd shui sidd sidt sind sinh sogd sogo sora soyo sund sunu sylo syrc syre syrj syrn tagb takr
    tale talu taml tang tavt tayo telu teng tfng tglg thaa thai tibt tirh tnsa todr tols toto tutg ugar vaii visp vith wara wcho wole
    xpeo xsux yezi yiii zanb zinh zmth zsye zsym zxxx zyyy zzzz
    """.split()  # noqa: SIM905  a list of literals would be eight times as long
)
"""ISO 15924."""

REGIONS = frozenset(
    """
    ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bl bm bn bo bq br bs bt bv bw by bz ca cc cd cf cg ch
    ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg eh er es et fi fj fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn
    gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li
    lk lr ls lt lu lv ly ma mc md me mf mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om
    pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st sv sx sy sz tc td
    tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug um us uy uz va vc ve vg vi vn vu wf ws xk ye yt za zm zw
    """.split()  # noqa: SIM905  a list of literals would be eight times as long
)
"""ISO 3166, and XK as it is used for Kosovo."""

VARIANTS = frozenset(
    """
    1606nict 1694acad 1959acad abl1943 akuapem alalc97 aluku ao1990 aranes arevela arevmda arkaika asante auvern baku1926 balanka
    barla basiceng bauddha biscayan biske bohoric boont bornholm cisaup colb1945 cornu creiss dajnko ekavsk emodeng fonipa fonkirsh
    fonnapa fonupa fonxsamp gallo gascon grclass grital grmistr hepburn heploc hognorsk hsistemo ijekavsk itihasa ivanchov jauer
    jyutping kkcor kociewie kscor laukika lemosin lengadoc lipaw luna1918 metelko monoton ndyuka nedis newfound nicard njiva nulik
    osojs oxendict pahawh2 pahawh3 pahawh4 pamaka peano petr1708 pinyin polyton provenc puter rigik rozaj rumgr scotland scouse
    simple solba sotav spanglis surmiran sursilv sutsilv synnejyl tarask tongyong tunumiit uccor ucrcor ulster unifon vaidika
    valencia vallader vecdruka vivaraup wadegile xsistemo
    """.split()  # noqa: SIM905  a list of literals would be eight times as long
)
"""IANA's registry of subtags."""


def language_tag(text: str) -> str | None:
    """A tag as it is written by convention (`zh-Hans`, `pt-BR`, `de-1996`), however the text has it; None if it is none."""
    language, *rest = text.lower().split("-")
    if not LANGUAGE.match(language):
        return None
    written = [language]
    if rest and rest[0] in SCRIPTS:
        written.append(rest.pop(0).capitalize())
    if rest and (rest[0] in REGIONS or AREA.match(rest[0])):
        written.append(rest.pop(0).upper())
    variants = dict.fromkeys(part for part in rest if part in VARIANTS or DATED.match(part))
    return "-".join([*written, *variants]) if len(variants) == len(rest) else None
