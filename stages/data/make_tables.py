"""Makes `scripts.tsv`, `careful.tsv`, `han.tsv` beside this file: run by hand when Unicode or OpenCC has a new version.

Reads the Unicode data of the package `regex` and the character dictionaries of `opencc-python-reimplemented` (install
both first); neither dictionary package is needed to run the pipeline.
"""

from importlib.resources import files
from pathlib import Path

import regex

CODES = """Adlm Aghb Ahom Arab Armi Armn Avst Bali Bamu Bass Batk Beng Berf Bhks Bopo Brah Bugi Buhd Cakm Cans Cari
Cham Cher Chrs Copt Cpmn Cprt Cyrl Deva Diak Dogr Dsrt Dupl Egyp Elba Elym Ethi Gara Geor Glag Gong Gonm
Goth Gran Grek Gujr Gukh Guru Hang Hani Hano Hatr Hebr Hira Hluw Hmng Hmnp Hung Ital Java Kali Kana Kawi
Khar Khmr Khoj Kits Knda Krai Kthi Lana Laoo Latn Lepc Limb Lina Linb Lisu Lyci Lydi Mahj Maka Mand Mani
Marc Medf Mend Merc Mero Mlym Modi Mong Mroo Mtei Mult Mymr Nagm Nand Narb Nbat Newa Nkoo Nshu Ogam Olck
Onao Orkh Orya Osge Osma Ougr Palm Pauc Perm Phag Phli Phlp Phnx Plrd Prti Rjng Rohg Runr Samr Sarb Saur
Sgnw Shaw Shrd Sidd Sidt Sind Sinh Sogd Sogo Sora Soyo Sund Sunu Sylo Syrc Tagb Takr Tale Talu Taml Tang
Tavt Tayo Telu Tfng Tglg Thaa Thai Tibt Tirh Tnsa Todr Tols Toto Tutg Ugar Vaii Vith Wara Wcho Xpeo Xsux
Yezi Yiii Zanb""".split()
HERE = Path(__file__).parent


def script_ranges() -> list[tuple[int, int, str]]:
    """(first, last, ISO 15924 code) of the letters of each script; a range takes in code points not assigned yet."""
    everything = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    script = dict.fromkeys(regex.findall(r"\P{Cn}", everything), "")
    for code in CODES:
        script.update(dict.fromkeys(regex.findall(rf"[\p{{L}}&&\p{{Script={code}}}]", everything, regex.V1), code))
    ranges: list[tuple[int, int, str]] = []
    for char, code in script.items():
        if ranges and ranges[-1][2] == code:
            ranges[-1] = (ranges[-1][0], ord(char), code)
        else:
            ranges.append((ord(char), ord(char), code))
    return [entry for entry in ranges if entry[2]]


def careful_ranges() -> list[tuple[int, int]]:
    """(first, last) of code points that NFC may change, or that are not assigned yet, or upper case from U+2000 on."""
    settled = regex.compile(r"[\p{NFC_QC=Yes}&&\p{CCC=0}&&\P{Cn}&&[\P{Uppercase}||[\u0000-\u1FFF]]]", regex.V1)
    ranges: list[tuple[int, int]] = []
    for code in range(0x110000):
        if settled.match(chr(code)) and not 0xD800 <= code < 0xE000:
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return ranges


def read_dictionary(name: str) -> dict[str, list[str]]:
    """OpenCC's lines "character, tab, its counterparts"."""
    text = files("opencc").joinpath("dictionary", name).read_text("utf-8")
    return {key: values.split() for key, values in (line.split("\t") for line in text.splitlines() if line)}


def one_sided() -> tuple[str, str]:
    """Characters that only simplified text uses, and those that only traditional text does."""
    to_traditional, to_simplified = read_dictionary("STCharacters.txt"), read_dictionary("TSCharacters.txt")
    simplified = {char for char, others in to_traditional.items() if char not in others}
    traditional = {char for char, others in to_simplified.items() if char not in others}
    written_simplified = {char for others in to_simplified.values() for char in others} | set(to_traditional)
    written_traditional = {char for others in to_traditional.values() for char in others} | set(to_simplified)
    for region in ("TWVariants.txt", "HKVariants.txt"):
        written_traditional |= {char for others in read_dictionary(region).values() for char in others}
    return "".join(sorted(simplified - written_traditional)), "".join(sorted(traditional - written_simplified))


if __name__ == "__main__":
    rows = [f"{first:04X}\t{last:04X}\t{code}\n" for first, last, code in script_ranges()]
    (HERE / "scripts.tsv").write_text("".join(rows), "utf-8")
    careful = [f"{first:04X}\t{last:04X}\n" for first, last in careful_ranges()]
    (HERE / "careful.tsv").write_text("".join(careful), "utf-8")
    hans, hant = one_sided()
    (HERE / "han.tsv").write_text(f"Hans\t{hans}\nHant\t{hant}\n", "utf-8")
