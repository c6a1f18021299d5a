from sqlalchemy import text

from kumiai.storage import DatabaseManager


async def test_a_trivial_query_is_answered(database: DatabaseManager) -> None:
    async with database.reading() as connection:
        found = await connection.execute(text("SELECT count(*) FROM runs"))

    assert found.scalar_one() == 0
