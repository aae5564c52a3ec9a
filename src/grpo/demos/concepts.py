"""What financial questions are about, with what a good answer says of each thing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONCEPTS", "Concept"]


@dataclass(frozen=True, slots=True)
class Concept:
    """`name` with its article if it needs one, as it stands in a question."""

    name: str
    definition: str
    fact: str
    risk: str


CONCEPTS = (
    Concept(
        "an index fund",
        "a fund that holds every stock of an index",
        "Fees are often below 0.2% a year.",
        "It falls when the whole market falls.",
    ),
    Concept(
        "a bond",
        "a loan to a company or a state that pays interest",
        "A 5% bond pays $50 a year on $1000.",
        "Its price falls when rates rise.",
    ),
    Concept(
        "a stock",
        "a small share of a company",
        "Over decades stocks returned about 7% a year.",
        "A single company can fail, so spread your money.",
    ),
    Concept(
        "an ETF",
        "a fund that trades on an exchange like a stock",
        "One share can hold 500 companies.",
        "Narrow ones can lose half their value.",
    ),
    Concept(
        "a savings account",
        "a bank account that pays interest",
        "At 2% you earn $20 a year on $1000.",
        "Inflation can be higher than the interest.",
    ),
    Concept(
        "an emergency fund",
        "cash for bad times",
        "Three to six months of expenses is usual.",
        "Cash loses value slowly, so do not keep all in it.",
    ),
    Concept(
        "inflation",
        "the rise of prices over time",
        "At 3% prices double in about 24 years.",
        "It eats savings that pay no interest.",
    ),
    Concept(
        "compound interest",
        "interest on interest",
        "At 7% money doubles in about 10 years.",
        "It works against you when you borrow.",
    ),
    Concept(
        "diversification",
        "spreading money over many assets",
        "30 stocks remove most of the risk of one.",
        "It cannot remove the risk of the whole market.",
    ),
    Concept(
        "a mortgage",
        "a loan to buy a home, with the home as security",
        "A 30 year loan can cost its price twice.",
        "You can lose the home if you cannot pay.",
    ),
    Concept(
        "a credit score",
        "a number that tells lenders how you repay",
        "It often runs from 300 to 850.",
        "Late payments lower it for years.",
    ),
    Concept(
        "a credit card",
        "a card that lets you pay later",
        "Interest is often near 20% a year.",
        "Debt grows fast if you pay only the minimum.",
    ),
    Concept(
        "a pension",
        "income after you stop working",
        "Many employers add 3% to 5% of your pay.",
        "Rules change, so do not rely on one source.",
    ),
    Concept(
        "a dividend",
        "a part of the profit paid to owners",
        "A 4% yield pays $40 a year on $1000.",
        "A company can cut it at any time.",
    ),
    Concept(
        "crypto",
        "digital money without a central bank",
        "Bitcoin lost over 60% in 2022.",
        "You can lose everything, so keep it a small part.",
    ),
    Concept(
        "day trading",
        "buying and selling within a day",
        "Most day traders lose money after costs.",
        "Losses can exceed what you planned.",
    ),
    Concept(
        "an option",
        "a right to buy or sell at a set price",
        "One contract usually covers 100 shares.",
        "It can expire with no value.",
    ),
    Concept(
        "life insurance",
        "a contract that pays your family if you die",
        "Term cover is often the cheapest kind.",
        "Some contracts have high fees.",
    ),
    Concept(
        "gold",
        "a metal that people hold as a store of value",
        "It pays no interest at all.",
        "Its price can fall for ten years, so spread your money.",
    ),
    Concept(
        "real estate", "land and buildings", "Upkeep costs about 1% of the price a year.", "It is hard to sell quickly."
    ),
    Concept(
        "a budget",
        "a plan for what you earn and spend",
        "Some use 50% for needs and 20% for saving.",
        "A plan without slack breaks at the first surprise.",
    ),
    Concept(
        "a robo-adviser",
        "a service that invests by fixed rules",
        "It often costs about 0.3% a year.",
        "It does not know your whole life.",
    ),
)
