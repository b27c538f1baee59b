//! A tiny collection: four short documents about different things, with facts that a test can ask for.

/// URI and Markdown text of each document, in order of URI.
pub const DOCUMENTS: &[(&str, &str)] = &[
    (
        "beekeeping.md",
        "# Beekeeping\n\n## Hives\n\nA strong hive holds about 50000 bees in midsummer. The queen lays up to 2000 eggs \
         per day.\n\n## Honey\n\nNectar becomes honey when its water content falls below 18 percent. Beekeepers \
         harvest in August and leave 15 kilograms of honey for the winter.\n",
    ),
    (
        "harbour.md",
        "# The harbour of Westmar\n\n## History\n\nThe harbour was founded in 1742 by Elsa Brandt. A storm destroyed \
         the first pier in 1803, and it was rebuilt in stone.\n\n## Traffic\n\nToday ferries leave for the islands \
         every 40 minutes. The lighthouse flashes twice every 15 seconds.\n",
    ),
    (
        "sourdough.md",
        "# Sourdough\n\n## Starter\n\nFeed the starter with equal weights of flour and water. At 25 degrees it doubles \
         within 6 hours.\n\n## Baking\n\nBake the loaf at 240 degrees for 45 minutes. Steam in the first minutes gives \
         a thin crust.\n",
    ),
    (
        "telescope.md",
        "# The telescope\n\n## Mirror\n\nThe main mirror has a diameter of 3.6 metres and is polished to 20 \
         nanometres. Its coating of aluminium is renewed every 18 months.\n\n## Schedule\n\nObservers apply for \
         nights in March. A committee of seven astronomers ranks the proposals.\n",
    ),
];
