//! A method's constant: what it is called, what it takes and returns, and its properties.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::ext::IdentExt;

use crate::model::{Method, Service};
use crate::streams;

pub(crate) fn constant(method: &Method, service: &Service) -> TokenStream {
    if method.kind.is_stream() {
        return stream_constant(method, service);
    }
    let Service { visibility, library, .. } = service;
    let Method { attributes, wire_name, reply, options, .. } = method;
    let name = method.constant();
    let types = method.types();
    let doc = format!("`{wire_name}`{}.", method.properties());
    let idempotent = options.idempotent.map(|_| quote!(.idempotent()));
    let drop_on_cancel = options.drop_on_cancel.map(|_| quote!(.drop_on_cancel()));
    let values = [
        ("reply_len_max", &options.reply_len_max),
        ("timeout", &options.timeout),
        ("time_limit", &options.time_limit),
        ("concurrency", &options.concurrency),
        ("queue_max", &options.queue_max),
        ("depth_max", &options.depth_max),
        ("memory_max", &options.memory_max),
    ];
    let values = values.iter().filter_map(|(name, value)| {
        let (span, value) = value.as_ref()?;
        let name = Ident::new(name, *span);
        Some(quote!(.#name(#value)))
    });
    let signature = signature(method, library, &types, &quote!(#reply));
    quote! {
        #(#attributes)*
        #[doc = ""]
        #[doc = #doc]
        #visibility const #name: #library::Method<#types, #reply> =
            #library::Method::new(#wire_name) #idempotent #drop_on_cancel #(#values)* #signature;
    }
}

/// Of types that all have a schema. It is asked for and not required, so that it is no error where one has none.
fn signature(
    method: &Method,
    library: &TokenStream,
    arguments: &TokenStream,
    reply: &TokenStream,
) -> TokenStream {
    let names = method.arguments.iter().map(|(name, _)| name.unraw().to_string());
    let streamed = method.kind.incoming().map(|_| "stream".to_owned());
    let names = names.chain(streamed);
    quote! {
        .with_signature(#library::__private::signature(&[#(#names),*], {
            #[allow(unused_imports, reason = "it is for a type without a schema")]
            use #library::__private::WithoutSchema as _;
            #library::__private::Probe::<#arguments, #reply>::LINKS
        }))
        .in_service(Self::signatures)
    }
}

fn stream_constant(method: &Method, service: &Service) -> TokenStream {
    let Service { visibility, library, .. } = service;
    let Method { attributes, wire_name, reply, options, .. } = method;
    let (name, types) = (method.constant(), method.types());
    let stream = quote!(#library::stream);
    let item = method.kind.incoming().unwrap_or(reply);
    let described = match streams::is_bytes(item) {
        true => quote!(#stream::BodyBytes),
        false => quote!(#item),
    };
    let (of, signature) = match method.kind.incoming() {
        Some(item) => {
            let all = method.arguments.iter().map(|(_, of)| of);
            let all = quote!((#(#all,)* #stream::Incoming<#described>,));
            let signature = signature(method, library, &all, &quote!(#reply));
            (quote!(#stream::UploadMethod<#types, #item, #reply>), signature)
        }
        None => {
            let sent = quote!(#stream::Outgoing<#described>);
            let signature = signature(method, library, &types, &sent);
            (quote!(#stream::StreamMethod<#types, #reply>), signature)
        }
    };
    let new = Ident::new(if streams::is_bytes(item) { "bytes" } else { "new" }, Span::call_site());
    let resumable = options.resumable.map(|_| quote!(.resumable()));
    let transactional = method.kind.commits_in_transaction().then(|| quote!(.transactional()));
    let values = [
        ("reply_len_max", &options.reply_len_max),
        ("chunk_len", &options.chunk_len),
        ("credit", &options.credit),
    ];
    let values = values.iter().filter_map(|(name, value)| {
        let (span, value) = value.as_ref()?;
        let name = Ident::new(name, *span);
        Some(quote!(.#name(#value)))
    });
    let does = if method.kind.incoming().is_some() { "takes a stream" } else { "sends a stream" };
    let doc = format!("`{wire_name}`, {does}{}.", method.properties());
    quote! {
        #(#attributes)*
        #[doc = ""]
        #[doc = #doc]
        #visibility const #name: #of =
            <#of>::#new(#wire_name) #resumable #transactional #(#values)* #signature;
    }
}
