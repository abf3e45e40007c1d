//! Callers that say by a token who they are: C182, C184.

use oncewire_core::{NotExecuted, Token};

use super::World;
use super::faulty_link::FaultyLink;
use crate::client::Outcome;
use crate::method::Method;
use crate::server::Server;
use crate::tokens::Tokens;

const WHO: Method<(), String> = Method::new("tokens/who");

fn token(byte: u8) -> Token {
    Token::new(&[byte; 32]).expect("a length that tokens have")
}

/// A server that knows alice, with a link to it.
async fn linked(world: &World) -> (super::world::Host, FaultyLink) {
    let tokens = Tokens::new([("alice", token(1))]).expect("a table");
    let builder = Server::builder("tokens")
        .method(&WHO, |context, ()| async move { context.caller.to_string() })
        .tokens(&tokens);
    let host = world.host_of(builder).await;
    let link = FaultyLink::to(host.connector.clone());
    (host, link)
}

pub async fn c184_a_token_names_its_caller_whatever_the_transport_says(world: World) {
    let (_host, link) = linked(&world).await;
    let client = world.client_with(&link, |options| options.token = Some(token(1)));
    super::expect_reply(&world, client.call(&WHO, &()), "alice".to_owned()).await;
    // So it is on the next connection, which resumes the session.
    link.cut();
    super::expect_reply(&world, client.call(&WHO, &()), "alice".to_owned()).await;
    let report = world.within("the close", client.close()).await;
    assert!(report.in_good_order, "{report}");
}

pub async fn c182_a_client_without_a_known_token_is_refused_and_its_calls_end_at_once(
    world: World,
) {
    let (host, link) = linked(&world).await;
    for (shown, why) in [(None, "none was sent"), (Some(token(2)), "does not know the token")] {
        let client = world.client_with(&link, |options| options.token = shown);
        let outcome = world.within("the refusal", client.call(&WHO, &())).await;
        let Outcome::NotExecuted(NotExecuted::NeverConnected) = outcome else {
            panic!("it is not served: {outcome:?}");
        };
        let error = client.status().last_error.unwrap_or_default();
        assert!(error.contains(why), "{error}");
        client.set_token(token(1));
        super::expect_reply(
            &world,
            async {
                assert!(client.connected().await);
                client.call(&WHO, &()).await
            },
            "alice".to_owned(),
        )
        .await;
    }
    assert!(host.server.counters().hellos_unidentified >= 2);
}
